import java.util.Map;
import java.util.concurrent.atomic.AtomicReference;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.serialization.StringSerializer;

/** Java's producer as it comes: idempotent. */
public class Idempotent {
    public static void main(String[] arguments) throws Exception {
        int count = Integer.parseInt(arguments[2]);
        AtomicReference<Exception> failed = new AtomicReference<>();
        StringSerializer text = new StringSerializer();
        Map<String, Object> settings = Map.of("bootstrap.servers", arguments[0]);
        try (KafkaProducer<String, String> producer = new KafkaProducer<>(settings, text, text)) {
            for (int i = 0; i < count; i++) {
                producer.send(new ProducerRecord<>(arguments[1], i % 3, null, "" + i), (metadata, error) -> {
                    if (error != null) {
                        failed.compareAndSet(null, error);
                    }
                });
                Thread.sleep(0, 500_000);
            }
            producer.flush();
        }
        if (failed.get() != null) {
            throw failed.get();
        }
    }
}
