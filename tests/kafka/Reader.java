import java.io.DataInputStream;
import java.io.EOFException;
import java.nio.ByteBuffer;
import org.apache.kafka.common.record.internal.MemoryRecords;
import org.apache.kafka.common.record.internal.Record;
import org.apache.kafka.common.record.internal.RecordBatch;
import org.apache.kafka.common.utils.internals.BufferSupplier;
import org.apache.kafka.common.utils.internals.CloseableIterator;

/** Reads batches as Apache Kafka's consumer does, and says of each how many records it has, or what stopped it. */
public class Reader {
    public static void main(String[] arguments) throws Exception {
        DataInputStream input = new DataInputStream(System.in);
        while (true) {
            int size;
            try {
                size = input.readInt();
            } catch (EOFException end) {
                return;
            }
            System.out.println(read(input.readNBytes(size)));
        }
    }

    private static String read(byte[] bytes) {
        try (BufferSupplier supplier = BufferSupplier.create()) {
            int count = 0;
            for (RecordBatch batch : MemoryRecords.readableRecords(ByteBuffer.wrap(bytes)).batches()) {
                batch.ensureValid();
                try (CloseableIterator<Record> records = batch.streamingIterator(supplier)) {
                    for (; records.hasNext(); count++) {
                        records.next();
                    }
                }
            }
            return "read " + count;
        } catch (Throwable error) {
            Throwable cause = error;
            while (cause.getCause() != null) {
                cause = cause.getCause();
            }
            return (cause.getClass().getSimpleName() + ": " + cause.getMessage()).replace('\n', ' ');
        }
    }
}
