import java.time.Duration;
import java.util.Arrays;
import java.util.HashMap;
import java.util.Map;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.serialization.StringDeserializer;

/** Java's consumer prints what partitions have from their beginnings up to an offset each: partition, offset, key. */
public class Reader {
    public static void main(String[] arguments) {
        Map<TopicPartition, Long> ends = new HashMap<>();
        for (String end : Arrays.asList(arguments).subList(2, arguments.length)) {
            ends.put(new TopicPartition(arguments[1], ends.size()), Long.valueOf(end));
        }
        StringDeserializer text = new StringDeserializer();
        Map<String, Object> settings = Map.of("bootstrap.servers", arguments[0]);
        try (KafkaConsumer<String, String> consumer = new KafkaConsumer<>(settings, text, text)) {
            consumer.assign(ends.keySet());
            consumer.seekToBeginning(ends.keySet());
            while (ends.entrySet().stream().anyMatch(end -> consumer.position(end.getKey()) < end.getValue())) {
                consumer.poll(Duration.ofMillis(500))
                    .forEach(record -> System.out.println(record.partition() + " " + record.offset() + " " + record.key()));
            }
        }
    }
}
