import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.util.Arrays;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.TreeMap;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.NewTopic;
import org.apache.kafka.clients.admin.TopicDescription;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.Metric;
import org.apache.kafka.common.serialization.ByteArraySerializer;

/**
 * Produces at a steady rate with acks=all and without idempotence, and otherwise as Java's producer comes. Each line on standard input asks:
 * "whole" waits until all replicas are in sync, "forget" begins to measure anew, "tell" says what there was since.
 */
public class Restarts {
    private static final String TOPIC = "restarts";
    private static final int PARTITIONS = 6;
    private static final long PAUSE_NS = 2_000_000;

    private static long acknowledged, failed, longestGap, longestWait;
    /** When each partition last acknowledged a record. */
    private static final long[] lastAt = new long[PARTITIONS];
    private static final Map<String, Long> errors = new TreeMap<>();
    private static volatile boolean ends;

    public static void main(String[] arguments) throws Exception {
        Map<String, Object> where = Map.of("bootstrap.servers", arguments[0]);
        try (Admin admin = Admin.create(where)) {
            NewTopic topic = new NewTopic(TOPIC, Optional.of(PARTITIONS), Optional.of((short) 3));
            admin.createTopics(List.of(topic.configs(Map.of("min.insync.replicas", "2")))).all().get();
            waitUntilWhole(admin);
            Map<String, Object> settings = new HashMap<>(where);
            settings.put("acks", "all");
            settings.put("enable.idempotence", "false");
            ByteArraySerializer bytes = new ByteArraySerializer();
            try (KafkaProducer<byte[], byte[]> producer = new KafkaProducer<>(settings, bytes, bytes)) {
                Thread load = new Thread(() -> load(producer));
                load.start();
                BufferedReader input = new BufferedReader(new InputStreamReader(System.in));
                for (String line; (line = input.readLine()) != null; ) {
                    switch (line) {
                        case "whole" -> waitUntilWhole(admin);
                        case "forget" -> forget();
                        default -> {
                            System.out.println(tell(producer));
                            continue;
                        }
                    }
                    System.out.println(line);
                }
                ends = true;
                load.join();
            }
        }
    }

    private static void load(KafkaProducer<byte[], byte[]> producer) {
        byte[] value = new byte[100];
        long next = System.nanoTime();
        for (int count = 0; !ends; count++) {
            long begun = System.nanoTime();
            int partition = count % PARTITIONS;
            producer.send(new ProducerRecord<>(TOPIC, partition, null, value), (metadata, error) -> note(partition, begun, error));
            next += PAUSE_NS;
            long pause = next - System.nanoTime();
            if (pause > 0) {
                try {
                    Thread.sleep(pause / 1_000_000, (int) (pause % 1_000_000));
                } catch (InterruptedException interrupted) {
                    return;
                }
            } else {
                // What a full buffer held up is not made up for.
                next = System.nanoTime();
            }
        }
    }

    private static synchronized void note(int partition, long begun, Exception error) {
        long now = System.nanoTime();
        longestWait = Math.max(longestWait, now - begun);
        if (error != null) {
            failed++;
            errors.merge(error.getClass().getSimpleName(), 1L, Long::sum);
            return;
        }
        acknowledged++;
        if (lastAt[partition] > 0) {
            longestGap = Math.max(longestGap, now - lastAt[partition]);
        }
        lastAt[partition] = now;
    }

    private static synchronized void forget() {
        acknowledged = failed = longestGap = longestWait = 0;
        Arrays.fill(lastAt, 0);
        errors.clear();
    }

    private static synchronized String tell(KafkaProducer<byte[], byte[]> producer) {
        double retried = producer.metrics().values().stream()
            .filter(metric -> metric.metricName().name().equals("record-retry-total") && metric.metricName().group().equals("producer-metrics"))
            .map(Metric::metricValue).mapToDouble(value -> (Double) value).sum();
        return String.format("%d records acknowledged, %d failed %s, %.0f tried again; longest gap of a partition %d ms, longest wait of a record %d ms",
            acknowledged, failed, errors, retried, longestGap / 1_000_000, longestWait / 1_000_000);
    }

    private static void waitUntilWhole(Admin admin) throws Exception {
        while (true) {
            TopicDescription topic = admin.describeTopics(List.of(TOPIC)).allTopicNames().get().get(TOPIC);
            if (topic.partitions().stream().allMatch(partition -> partition.leader() != null && partition.isr().size() == 3)) {
                return;
            }
            Thread.sleep(50);
        }
    }
}
