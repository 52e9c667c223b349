//! What a scrape found, in the text format of OpenMetrics, which Prometheus reads.
//!
//! What Apache Kafka measures too has the name that the example rules of Prometheus's JMX exporter give it there, and the high
//! watermark that of `kafka_exporter`, so that a dashboard made for those shows something here; what only this broker has begins
//! with `milena_`, and the process's own names are those of Prometheus's client libraries. Times are histograms in seconds.

use std::collections::BTreeMap;
use std::fmt;

use milena_core::image::Partition;
use milena_core::replica::{PartitionView, Tally};
use milena_core::storage::{CleanerTally, StoreView};
use milena_core::{NodeId, Place};
use milena_wire::ErrorCode;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{
    DescriptorEncoder, EncodeCounterValue, EncodeGaugeValue, EncodeLabelSet, MetricEncoder,
    NoLabelSet, text,
};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;

use crate::files::SyncTimes;
use crate::kafka::Load;
use crate::metrics::{ApiTraffic, Histogram, Traffic};
use crate::report::{self, MetadataReport, Report};

/// Of the text that [`encode`] gives.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// What a scrape found.
#[derive(Debug)]
pub struct Scrape {
    /// Of which node.
    pub node: NodeId,
    /// Each worker's report and partitions; none of those that are silent.
    pub workers: Vec<Option<(Report, Vec<PartitionView>)>>,
    /// Of all Kafka connections.
    pub load: Load,
    /// Of all files.
    pub sync_times: SyncTimes,
    /// Of the process.
    pub process: Process,
}

/// What the operating system says of this process, as far as it does.
#[derive(Clone, Copy, Debug, Default)]
pub struct Process {
    /// Open files, connections among them.
    pub open_files: Option<u64>,
    /// How many it may have.
    pub open_files_max: Option<u64>,
    /// Bytes of memory that are in use.
    pub resident_bytes: Option<u64>,
    /// Processor time, seconds.
    pub cpu_seconds: Option<f64>,
}

impl Process {
    /// As it is now.
    pub fn now() -> Process {
        use rustix::param::{clock_ticks_per_second, page_size};
        use rustix::process::{Resource, getrlimit};
        let numbers = |file: &str| -> Option<Vec<u64>> {
            let text = std::fs::read_to_string(file).ok()?;
            // What stands in parentheses is the program's name, which may hold anything.
            let plain = text.rsplit_once(')').map_or(text.as_str(), |(_, behind)| behind);
            Some(plain.split_whitespace().map(|word| word.parse().unwrap_or(0)).collect())
        };
        let ticks = numbers("/proc/self/stat").and_then(|n| Some(n.get(11)? + n.get(12)?));
        let pages = numbers("/proc/self/statm").and_then(|numbers| numbers.get(1).copied());
        // The one that reads the directory is not among them.
        let open = std::fs::read_dir("/proc/self/fd").ok().map(|all| all.count() as u64 - 1);
        Process {
            open_files: open,
            open_files_max: getrlimit(Resource::Nofile).current,
            resident_bytes: pages.map(|pages| pages * page_size() as u64),
            cpu_seconds: ticks.map(|ticks| ticks as f64 / clock_ticks_per_second() as f64),
        }
    }
}

/// The text of a scrape.
pub fn encode(scrape: Scrape) -> String {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(scrape));
    let mut out = String::new();
    text::encode(&mut out, &registry).expect("a string takes everything");
    out
}

impl Collector for Scrape {
    fn encode(&self, encoder: DescriptorEncoder) -> fmt::Result {
        let mut out = Out(encoder);
        let reports = || self.workers.iter().flatten().map(|(report, _)| report);
        let partitions: Vec<&PartitionView> =
            self.workers.iter().flatten().flat_map(|(_, partitions)| partitions).collect();
        if let Some(known) = reports().find_map(|report| report.metadata.as_ref()) {
            out.controller(known)?;
            out.quorum(known)?;
        }
        out.replicas(&partitions)?;
        out.topics(&partitions)?;
        out.partitions(&partitions)?;
        let mut traffic = Traffic::default();
        reports().for_each(|report| traffic.add(&report.traffic));
        out.requests(&traffic)?;
        out.stores(self)?;
        out.connections(&self.load)?;
        out.untaken(self)?;
        out.syncs(&self.sync_times)?;
        out.workers(self)?;
        out.process(&self.process)
    }
}

/// A metric's name and what it says.
type Named<'a> = (&'a str, &'a str);

/// Where metrics are written, one family after the other.
struct Out<'a>(DescriptorEncoder<'a>);

impl Out<'_> {
    fn family(
        &mut self,
        (name, help): Named,
        kind: MetricType,
        write: impl FnOnce(&mut MetricEncoder) -> fmt::Result,
    ) -> fmt::Result {
        write(&mut self.0.encode_descriptor(name, help, None, kind)?)
    }

    fn gauge(&mut self, named: Named, value: impl EncodeGaugeValue) -> fmt::Result {
        self.family(named, MetricType::Gauge, |encoder| encoder.encode_gauge(&value))
    }

    fn gauges<L: EncodeLabelSet, V: EncodeGaugeValue>(
        &mut self,
        named: Named,
        values: impl IntoIterator<Item = (L, V)>,
    ) -> fmt::Result {
        self.family(named, MetricType::Gauge, |encoder| {
            values.into_iter().try_for_each(|(labels, value)| {
                encoder.encode_family(&labels)?.encode_gauge(&value)
            })
        })
    }

    /// Their names end in `_total`, which is added.
    fn counters<L: EncodeLabelSet, V: EncodeCounterValue>(
        &mut self,
        named: Named,
        values: impl IntoIterator<Item = (L, V)>,
    ) -> fmt::Result {
        self.family(named, MetricType::Counter, |encoder| {
            values.into_iter().try_for_each(|(labels, value)| {
                encoder.encode_family(&labels)?.encode_counter::<NoLabelSet, _, u64>(&value, None)
            })
        })
    }

    fn histograms<'h, L: EncodeLabelSet>(
        &mut self,
        named: Named,
        values: impl IntoIterator<Item = (L, &'h Histogram)>,
    ) -> fmt::Result {
        self.family(named, MetricType::Histogram, |encoder| {
            values.into_iter().try_for_each(|(labels, times)| {
                let (sum, count, buckets) = (times.sum(), times.count(), times.buckets());
                let mut encoder = encoder.encode_family(&labels)?;
                encoder.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)
            })
        })
    }

    /// What the active controller knows of the cluster. As with Kafka's, all others say 0, so that a sum over nodes is right.
    fn controller(&mut self, known: &MetadataReport) -> fmt::Result {
        let image = &known.image;
        let if_active = |count: usize| if known.active { count } else { 0 };
        let mut partitions = 0;
        let (mut offline, mut imbalanced) = (0, 0);
        if known.active {
            for (_, partition) in image.partitions() {
                partitions += 1;
                offline += usize::from(partition.leader.is_none());
                imbalanced += usize::from(partition.leader != partition.replicas.first().copied());
            }
        }
        let fenced = image.brokers.values().filter(|broker| broker.fenced).count();
        let active = "kafka_controller_kafkacontroller_activecontrollercount";
        self.gauge((active, "1 on the active controller, 0 elsewhere"), u32::from(known.active))?;
        let counts = [
            ("activebrokercount", "Brokers in service", image.brokers.len() - fenced),
            ("fencedbrokercount", "Registered brokers out of service", fenced),
            ("globaltopiccount", "Topics of the cluster", image.topics.len()),
            ("globalpartitioncount", "Partitions of the cluster", partitions),
            ("offlinepartitionscount", "Partitions without a leader", offline),
            (
                "preferredreplicaimbalancecount",
                "Partitions that another replica than the preferred one leads",
                imbalanced,
            ),
        ];
        counts.into_iter().try_for_each(|(name, help, count)| {
            let name = format!("kafka_controller_kafkacontroller_{name}");
            self.gauge(
                (&name, &format!("{help}, as the active controller has it; 0 elsewhere")),
                if_active(count),
            )
        })
    }

    fn quorum(&mut self, known: &MetadataReport) -> fmt::Result {
        let leader = known.leader.map_or(-1, |leader| leader.0);
        let numbers = [
            ("current_epoch", "Term of the metadata quorum", i64::from(known.term)),
            ("current_leader", "Leader of the metadata quorum; -1 if unknown", leader.into()),
            ("high_watermark", "Committed end of the metadata log", known.commit),
            ("log_end_offset", "End of the metadata log on this node", known.end),
        ];
        numbers.into_iter().try_for_each(|(name, help, value)| {
            self.gauge((&format!("kafka_server_raftmetrics_{name}"), help), value)
        })
    }

    /// The replicas of this broker, counted.
    fn replicas(&mut self, partitions: &[&PartitionView]) -> fmt::Result {
        let count = |counts: &dyn Fn(&PartitionView) -> bool| {
            partitions.iter().filter(|partition| counts(partition)).count()
        };
        let counts = [
            ("partitioncount", "Replicas on this broker", partitions.len()),
            ("leadercount", "Partitions that this broker leads", count(&|p| p.leading)),
            (
                "underreplicatedpartitions",
                "Led partitions with a replica that is not in sync",
                count(&|p| led(p).is_some_and(is_under_replicated)),
            ),
            (
                "underminisrpartitioncount",
                "Led partitions with fewer replicas in sync than acks=all needs",
                count(&|p| led(p).is_some_and(is_under_min_isr)),
            ),
            (
                "atminisrpartitioncount",
                "Led partitions with just as many replicas in sync as acks=all needs",
                count(&|p| led(p).is_some_and(is_at_min_isr)),
            ),
            (
                "offlinereplicacount",
                "Replicas on this broker whose data is damaged",
                count(&|p| p.damaged),
            ),
        ];
        counts.into_iter().try_for_each(|(name, help, count)| {
            self.gauge((&format!("kafka_server_replicamanager_{name}"), help), count)
        })
    }

    /// What clients wrote and read, by topic.
    fn topics(&mut self, partitions: &[&PartitionView]) -> fmt::Result {
        let mut topics: BTreeMap<&str, Tally> = BTreeMap::new();
        for partition in partitions {
            let topic = topics.entry(&partition.topic.name).or_default();
            topic.records_in += partition.tally.records_in;
            topic.bytes_in += partition.tally.bytes_in;
            topic.bytes_out += partition.tally.bytes_out;
        }
        type Of = fn(&Tally) -> u64;
        let tallies: [(&str, &str, Of); 3] = [
            ("messagesin", "Records that clients wrote", |tally| tally.records_in),
            ("bytesin", "Bytes of batches that clients wrote", |tally| tally.bytes_in),
            ("bytesout", "Bytes of batches that clients read", |tally| tally.bytes_out),
        ];
        tallies.into_iter().try_for_each(|(name, help, of)| {
            let name = format!("kafka_server_brokertopicmetrics_{name}");
            let values = topics.iter().map(|(topic, tally)| ([("topic", *topic)], of(tally)));
            self.counters((&name, help), values)
        })
    }

    /// Each replica of this broker, and of each that leads what is known of the whole partition.
    fn partitions(&mut self, partitions: &[&PartitionView]) -> fmt::Result {
        type Of = fn(&PartitionView) -> Option<i64>;
        let numbers: [(&str, &str, Of); 9] = [
            ("kafka_log_log_logstartoffset", "Log start offset", |p| Some(p.start)),
            ("kafka_log_log_logendoffset", "Log end offset", |p| Some(p.end)),
            ("kafka_log_log_size", "Bytes of the log", |p| i64::try_from(p.bytes).ok()),
            ("kafka_topic_partition_current_offset", "High watermark of a led partition", |p| {
                p.leading.then_some(p.high_watermark)
            }),
            ("kafka_cluster_partition_replicascount", "Replicas of a led partition", |p| {
                led(p).map(|partition| partition.replicas.len() as i64)
            }),
            ("kafka_cluster_partition_insyncreplicascount", "Those of them in sync", |p| {
                led(p).map(|partition| partition.isr.len() as i64)
            }),
            ("kafka_cluster_partition_underreplicated", "Whether one of them is not", |p| {
                led(p).map(|partition| is_under_replicated(partition).into())
            }),
            ("kafka_cluster_partition_underminisr", "Whether acks=all needs more in sync", |p| {
                led(p).map(|partition| is_under_min_isr(partition).into())
            }),
            ("kafka_cluster_partition_atminisr", "Whether acks=all needs each in sync", |p| {
                led(p).map(|partition| is_at_min_isr(partition).into())
            }),
        ];
        numbers.into_iter().try_for_each(|(name, help, of)| {
            let values =
                partitions.iter().filter_map(|partition| Some((labels(partition), of(partition)?)));
            self.gauges((name, help), values)
        })
    }

    fn requests(&mut self, traffic: &Traffic) -> fmt::Result {
        type Of = fn(&ApiTraffic) -> u64;
        let numbers: [(&str, &str, Of); 3] = [
            ("requests", "Requests of clients", |api| api.requests),
            ("requestbytes", "Bytes of requests of clients", |api| api.request_bytes),
            ("responsebytes", "Bytes of answers to clients", |api| api.response_bytes),
        ];
        let apis = || traffic.apis.iter().map(|(api, of)| (format!("{api:?}"), of));
        for (name, help, of) in numbers {
            let name = format!("kafka_network_requestmetrics_{name}");
            self.counters((&name, help), apis().map(|(api, t)| ([("request", api)], of(t))))?;
        }
        let errors = apis().flat_map(|(api, of)| {
            let labels = move |code| [("request", api.clone()), ("error", error_name(code))];
            of.errors.iter().map(move |(code, count)| (labels(*code), *count))
        });
        let help = "Error codes in answers, of the whole and of each partition, NONE among them";
        self.counters(("kafka_network_requestmetrics_errors", help), errors)?;
        let help = "From a whole request to its answer, with what a fetch waits for records";
        let times = apis().map(|(api, of)| ([("request", api)], &of.times));
        self.histograms(("kafka_network_requestmetrics_totaltime_seconds", help), times)
    }

    /// Journals and memory of the storage engines.
    fn stores(&mut self, scrape: &Scrape) -> fmt::Result {
        let reports = scrape.workers.iter().flatten().map(|(report, _)| report);
        let stores: Vec<(String, StoreView)> = reports
            .flat_map(|report| {
                let metadata = report.metadata.as_ref().map(|m| ("metadata".into(), m.store));
                let shard = report.shard.map(|(shard, store)| (shard.to_string(), store));
                metadata.into_iter().chain(shard)
            })
            .collect();
        type Of = fn(&StoreView) -> Option<u64>;
        let numbers: [(&str, &str, Of); 7] = [
            ("journal_bytes", "Bytes of journal files still needed", |s| Some(s.journal_bytes)),
            ("journal_bytes_max", "Bytes of all journal files", |s| Some(s.journal_bytes_max)),
            ("memory_bytes", "Bytes of batches that no segment has yet", |s| Some(s.memory_bytes)),
            ("memory_bytes_max", "At so many of them produce waits", |s| Some(s.memory_bytes_max)),
            ("disk_free_bytes", "Free bytes of the file system", |s| s.free_bytes),
            ("accepts_produce", "Whether the disk has room for produce", |s| {
                Some(s.accepts_produce.into())
            }),
            ("is_cleaning", "Whether a log is being cleaned", |s| Some(s.is_cleaning.into())),
        ];
        for (name, help, of) in numbers {
            let values = stores
                .iter()
                .filter_map(|(shard, store)| Some(([("shard", shard.as_str())], of(store)?)));
            self.gauges((&format!("milena_store_{name}"), help), values)?;
        }
        type Done = fn(&CleanerTally) -> u64;
        let done: [(&str, &str, Done); 4] = [
            (
                "logs",
                "Passes over a log that came to its end; a log with more keys than the cleaner's memory takes several",
                |done| done.logs,
            ),
            ("read_bytes", "Bytes of logs that were read to be cleaned", |done| done.read_bytes),
            ("written_bytes", "Bytes that were written of what stays", |done| done.written_bytes),
            ("records_gone", "Records that went by compaction", |done| done.records_gone),
        ];
        done.into_iter().try_for_each(|(name, help, of)| {
            let values = stores
                .iter()
                .filter(|(shard, _)| shard != "metadata")
                .map(|(shard, store)| ([("shard", shard.as_str())], of(&store.cleaner)));
            self.counters((&format!("milena_cleaner_{name}"), help), values)
        })
    }

    fn connections(&mut self, load: &Load) -> fmt::Result {
        let numbers = [
            (
                "kafka_server_socketservermetrics_connection_count",
                "Kafka connections",
                load.connections,
            ),
            (
                "milena_request_memory_bytes",
                "Bytes of requests that are not answered, beside 64 KiB of each connection",
                load.request_memory,
            ),
            (
                "milena_request_memory_bytes_max",
                "At so many of them connections wait",
                load.request_memory_max,
            ),
            ("milena_request_memory_waiting", "Connections that wait for some", load.waiting),
        ];
        numbers.into_iter().try_for_each(|(name, help, value)| self.gauge((name, help), value))
    }

    /// Answers that clients have not taken, by shard, as their bound is.
    fn untaken(&mut self, scrape: &Scrape) -> fmt::Result {
        let reports = || scrape.workers.iter().flatten().map(|(report, _)| report);
        let shards = || reports().filter_map(|report| Some((report.shard?.0, report)));
        let bytes = shards().map(|(shard, of)| ([("shard", shard)], of.traffic.untaken_bytes));
        let help = "Bytes of answers that clients have not taken";
        self.gauges(("milena_response_memory_bytes", help), bytes)?;
        let most = shards().map(|(shard, _)| ([("shard", shard)], scrape.load.untaken_bytes_max));
        let help = "Beyond so many of them connections are closed";
        self.gauges(("milena_response_memory_bytes_max", help), most)
    }

    fn syncs(&mut self, times: &SyncTimes) -> fmt::Result {
        let help = "How long the disk took to sync a file: of a journal, for which clients wait, or another";
        let values =
            [([("file", "journal")], &times.journals), ([("file", "segment")], &times.segments)];
        self.histograms(("kafka_log_logflushstats_logflushtime_seconds", help), values)
    }

    fn workers(&mut self, scrape: &Scrape) -> fmt::Result {
        let help = "Whether this thread answered in time; where not, what it has is missing here";
        let up = scrape.workers.iter().map(|answer| u32::from(answer.is_some()));
        let shard = |worker| match report::place(worker) {
            Place::Metadata => "metadata".to_string(),
            Place::Shard(shard) => shard.to_string(),
        };
        let values = up.enumerate().map(|(worker, up)| ([("shard", shard(worker))], up));
        self.gauges(("milena_worker_up", help), values)?;
        let labels =
            vec![("node", scrape.node.to_string()), ("version", env!("CARGO_PKG_VERSION").into())];
        self.gauges(
            ("milena_build", "This node and the version of Milena that it runs"),
            [(labels, 1_u32)],
        )
    }

    fn process(&mut self, process: &Process) -> fmt::Result {
        let numbers = [
            ("process_open_fds", "Open files and connections", process.open_files),
            ("process_max_fds", "How many there may be", process.open_files_max),
            ("process_resident_memory_bytes", "Memory in use", process.resident_bytes),
        ];
        for (name, help, value) in numbers {
            if let Some(value) = value {
                self.gauge((name, help), value)?;
            }
        }
        let Some(seconds) = process.cpu_seconds else { return Ok(()) };
        let named = ("process_cpu_seconds", "Processor time used");
        self.family(named, MetricType::Counter, |encoder| {
            encoder.encode_counter::<NoLabelSet, _, u64>(&seconds, None)
        })
    }
}

/// A partition's labels.
fn labels(of: &PartitionView) -> impl EncodeLabelSet + use<'_> {
    ([("topic", of.topic.name.as_str())], [("partition", of.log.partition)])
}

/// The record of a partition that is led here.
fn led(view: &PartitionView) -> Option<&Partition> {
    view.leading.then_some(&*view.partition)
}

fn is_under_replicated(partition: &Partition) -> bool {
    partition.isr.len() < partition.replicas.len()
}

fn is_under_min_isr(partition: &Partition) -> bool {
    partition.isr.len() < usize::from(partition.min_isr)
}

fn is_at_min_isr(partition: &Partition) -> bool {
    partition.isr.len() == usize::from(partition.min_isr)
}

fn error_name(code: ErrorCode) -> String {
    code.name().map_or_else(|| code.0.to_string(), String::from)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::sync::Arc;
    use std::time::Duration;

    use milena_core::image::{Image, Topic};
    use milena_core::{LogId, TopicId};
    use milena_wire::ApiKey;

    use super::*;

    fn scrape() -> Scrape {
        let id = TopicId([1; 16]);
        let nodes = |ids: &[i32]| ids.iter().copied().map(NodeId).collect::<Vec<_>>();
        let partition = |leader, isr: &[i32], min_isr| Partition {
            replicas: nodes(&[1, 2, 3]),
            isr: nodes(isr),
            leader,
            min_isr,
            ..Partition::default()
        };
        let partitions = vec![
            partition(Some(NodeId(1)), &[1, 2, 3], 2),
            partition(Some(NodeId(1)), &[1, 2], 2),
            partition(Some(NodeId(1)), &[1], 2),
            partition(Some(NodeId(2)), &[2], 1),
            partition(None, &[], 2),
        ];
        let partitions = partitions.into_iter().map(Arc::new);
        let topic = Arc::new(Topic {
            id,
            name: "orders.v1".into(),
            configs: BTreeMap::new(),
            partitions: (0..).zip(partitions).collect(),
        });
        let image =
            Image { topics: [(id, topic.clone())].into_iter().collect(), ..Image::default() };
        let views = topic.partitions.iter().map(|(&index, partition)| PartitionView {
            log: LogId { topic: id, partition: index },
            topic: topic.clone(),
            partition: partition.clone(),
            leading: partition.leader == Some(NodeId(1)),
            damaged: index == 4,
            start: 1,
            end: 10 + i64::from(index),
            high_watermark: 9,
            bytes: 100,
            tally: Tally { records_in: 3, bytes_in: 30, bytes_out: 5 },
        });
        let store = StoreView {
            journal_bytes: 7,
            journal_bytes_max: 70,
            memory_bytes: 8,
            memory_bytes_max: 80,
            free_bytes: Some(1_000),
            accepts_produce: true,
            is_cleaning: true,
            cleaner: CleanerTally { logs: 1, read_bytes: 90, written_bytes: 30, records_gone: 6 },
        };
        let mut traffic = Traffic::default();
        traffic.asked(ApiKey::Fetch, 50);
        traffic.untaken_bytes = 22;
        let failed = milena_wire::messages::FetchResponse {
            error_code: ErrorCode::FETCH_SESSION_TOPIC_ID_ERROR,
            ..Default::default()
        };
        let took = Duration::from_millis(3);
        traffic.answered(ApiKey::Fetch, Some(&failed.into()), 20, took);
        let metadata = MetadataReport {
            image: Arc::new(image),
            term: 4,
            leader: None,
            end: 90,
            commit: 88,
            active: true,
            serving: None,
            stopping: false,
            store,
        };
        let report = Report { metadata: Some(metadata), shard: Some((0, store)), traffic };
        let mut sync_times = SyncTimes::default();
        sync_times.journals.record(Duration::from_micros(300));
        Scrape {
            node: NodeId(1),
            workers: vec![Some((report, views.collect())), None],
            load: Load {
                connections: 2,
                request_memory: 11,
                request_memory_max: 111,
                waiting: 0,
                untaken_bytes_max: 222,
            },
            sync_times,
            process: Process { open_files: Some(20), ..Process::default() },
        }
    }

    #[test]
    fn a_scrape_says_what_was_found() {
        let text = encode(scrape());
        let expected = [
            "kafka_controller_kafkacontroller_activecontrollercount 1",
            "kafka_controller_kafkacontroller_offlinepartitionscount 1",
            "kafka_controller_kafkacontroller_preferredreplicaimbalancecount 2",
            "kafka_server_raftmetrics_current_leader -1",
            "kafka_server_replicamanager_partitioncount 5",
            "kafka_server_replicamanager_leadercount 3",
            "kafka_server_replicamanager_underreplicatedpartitions 2",
            "kafka_server_replicamanager_underminisrpartitioncount 1",
            "kafka_server_replicamanager_atminisrpartitioncount 1",
            "kafka_server_replicamanager_offlinereplicacount 1",
            "kafka_server_brokertopicmetrics_bytesin_total{topic=\"orders.v1\"} 150",
            "kafka_log_log_logendoffset{topic=\"orders.v1\",partition=\"3\"} 13",
            "kafka_topic_partition_current_offset{topic=\"orders.v1\",partition=\"2\"} 9",
            "kafka_cluster_partition_underminisr{topic=\"orders.v1\",partition=\"2\"} 1",
            "kafka_cluster_partition_atminisr{topic=\"orders.v1\",partition=\"2\"} 0",
            "kafka_network_requestmetrics_requests_total{request=\"Fetch\"} 1",
            "kafka_network_requestmetrics_errors_total{request=\"Fetch\",error=\"FETCH_SESSION_TOPIC_ID_ERROR\"} 1",
            "kafka_network_requestmetrics_totaltime_seconds_bucket{le=\"0.002\",request=\"Fetch\"} 0",
            "kafka_network_requestmetrics_totaltime_seconds_bucket{le=\"0.005\",request=\"Fetch\"} 1",
            "kafka_network_requestmetrics_totaltime_seconds_bucket{le=\"+Inf\",request=\"Fetch\"} 1",
            "kafka_log_logflushstats_logflushtime_seconds_count{file=\"journal\"} 1",
            "milena_store_journal_bytes{shard=\"metadata\"} 7",
            "milena_store_journal_bytes_max{shard=\"0\"} 70",
            "milena_store_is_cleaning{shard=\"0\"} 1",
            "milena_cleaner_logs_total{shard=\"0\"} 1",
            "milena_cleaner_records_gone_total{shard=\"0\"} 6",
            "milena_request_memory_bytes 11",
            "milena_response_memory_bytes{shard=\"0\"} 22",
            "milena_response_memory_bytes_max{shard=\"0\"} 222",
            "milena_worker_up{shard=\"metadata\"} 1",
            "milena_worker_up{shard=\"0\"} 0",
            "process_open_fds 20",
        ];
        for line in expected {
            assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
        }
        let of_followers =
            "kafka_topic_partition_current_offset{topic=\"orders.v1\",partition=\"3\"}";
        assert!(!text.contains(of_followers), "only the leader says it");
        assert!(!text.contains("process_max_fds"), "what is not known is not said");
        assert!(text.ends_with("# EOF\n"));
    }

    /// Each family comes once, in one piece, and no series twice: what Prometheus refuses a scrape for.
    #[test]
    fn families_are_whole_and_series_unique() {
        let text = encode(scrape());
        let (mut families, mut series) = (BTreeSet::new(), BTreeSet::new());
        let mut family = String::new();
        for line in text.lines().take_while(|line| *line != "# EOF") {
            if let Some(rest) = line.strip_prefix("# TYPE ") {
                family = rest.split(' ').next().unwrap_or("").into();
                assert!(families.insert(family.clone()), "{line} is there twice");
            } else if !line.starts_with('#') {
                let (name, value) = line.rsplit_once(' ').expect("a value");
                assert!(name.starts_with(&family), "{line} is not of {family}");
                assert!(value.parse::<f64>().is_ok(), "{line}");
                assert!(series.insert(name), "{line} is there twice");
            }
        }
        assert!(families.len() > 40 && series.len() > 80, "{text}");
    }

    #[test]
    fn nothing_but_the_controller_says_what_it_knows() {
        let mut scrape = scrape();
        let (report, _) = scrape.workers[0].as_mut().expect("it is there");
        report.metadata.as_mut().expect("it is there").active = false;
        let text = encode(scrape);
        for name in ["activecontrollercount", "offlinepartitionscount", "globaltopiccount"] {
            let line = format!("kafka_controller_kafkacontroller_{name} 0");
            assert!(text.lines().any(|found| found == line), "{text}");
        }
    }

    #[test]
    fn the_process_knows_itself() {
        let process = Process::now();
        assert!(process.open_files.is_some_and(|open| open > 2), "{process:?}");
        assert!(process.resident_bytes.is_some_and(|bytes| bytes > 100_000), "{process:?}");
        assert!(process.cpu_seconds.is_some_and(|seconds| seconds < 10_000.0), "{process:?}");
    }
}
