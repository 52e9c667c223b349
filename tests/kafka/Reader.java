import java.io.DataInputStream;
import java.io.EOFException;
import java.nio.ByteBuffer;
import org.apache.kafka.common.record.internal.MemoryRecords;
import org.apache.kafka.common.record.internal.Record;
import org.apache.kafka.common.record.internal.RecordBatch;
import org.apache.kafka.common.utils.internals.BufferSupplier;
import org.apache.kafka.common.utils.internals.CloseableIterator;

/**
 * Reads batches as Apache Kafka's consumer does, and says of each how many records it has, or what stopped it. With the
 * argument `whole` it says what they are.
 */
public class Reader {
    private static boolean whole;

    public static void main(String[] arguments) throws Exception {
        whole = arguments.length > 0 && arguments[0].equals("whole");
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
            StringBuilder told = new StringBuilder();
            for (RecordBatch batch : MemoryRecords.readableRecords(ByteBuffer.wrap(bytes)).batches()) {
                batch.ensureValid();
                tell(batch, told);
                try (CloseableIterator<Record> records = batch.streamingIterator(supplier)) {
                    for (; records.hasNext(); count++) {
                        tell(records.next(), told);
                    }
                }
            }
            return "read " + count + (whole ? told : "");
        } catch (Throwable error) {
            Throwable cause = error;
            while (cause.getCause() != null) {
                cause = cause.getCause();
            }
            return (cause.getClass().getSimpleName() + ": " + cause.getMessage()).replace('\n', ' ');
        }
    }

    private static void tell(RecordBatch batch, StringBuilder told) {
        told.append(" from ").append(batch.baseOffset()).append(" to ").append(batch.lastOffset());
        told.append(" epoch ").append(batch.partitionLeaderEpoch());
        told.append(" producer ").append(batch.producerId()).append(' ').append(batch.producerEpoch());
        told.append(' ').append(batch.baseSequence()).append(' ').append(batch.lastSequence());
        told.append(' ').append(batch.timestampType()).append(" max ").append(batch.maxTimestamp());
        told.append(" horizon ").append(batch.deleteHorizonMs().orElse(-1)).append(':');
    }

    private static void tell(Record record, StringBuilder told) {
        if (whole) {
            told.append(' ').append(record.offset()).append('@').append(record.timestamp());
            told.append('=').append(record.keySize()).append('/').append(record.valueSize());
            told.append('/').append(record.headers().length).append('/').append(record.sequence());
        }
    }
}
