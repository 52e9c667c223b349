//! Apache Kafka from Maven Central, under `target/kafka`: its class path, and the schemas of its messages.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

/// Where Apache Kafka is on this machine.
pub struct Installed {
    /// For `java -cp`.
    pub class_path: String,
    /// The folder of `ProduceRequest.json` and its like.
    pub schemas: PathBuf,
}

/// Fetches what is not there yet.
pub fn install() -> Result<Installed> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let target = here.join("../../target/kafka");
    fs::create_dir_all(&target)?;
    let target = target.canonicalize()?;
    let pom = fs::read_to_string(here.join("pom.xml"))?;
    // The class path is made of whole paths, which a moved workspace no longer has.
    let installed = format!("{pom}<!-- {} -->\n", target.display());
    let marker = target.join("installed.xml");
    let class_path = target.join("classpath");
    if fs::read_to_string(&marker).ok().as_ref() != Some(&installed) {
        let mut maven = Command::new("mvn");
        maven.args(["--quiet", "--batch-mode", "dependency:build-classpath", "--file"]);
        maven.arg(here.join("pom.xml"));
        maven.arg(format!("-Dmaven.repo.local={}", target.join("m2").display()));
        maven.arg(format!("-Dmdep.outputFile={}", class_path.display()));
        run(&mut maven).context("Maven brings Apache Kafka; Debian has it as `maven`")?;
        let jars = fs::read_to_string(&class_path)?;
        let clients = jars.split(':').find(|jar| jar.contains("/kafka-clients-"));
        let clients = clients.context("Apache Kafka comes with a jar of its clients")?;
        let mut jar = Command::new("jar");
        run(jar.args(["xf", clients, "common/message"]).current_dir(&target))?;
        fs::write(&marker, installed)?;
    }
    let class_path = fs::read_to_string(class_path)?.trim().to_owned();
    Ok(Installed { class_path, schemas: target.join("common/message") })
}

/// Runs a command to its end.
pub fn run(command: &mut Command) -> Result<()> {
    let output = command.output().with_context(|| format!("{command:?}"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    ensure!(
        output.status.success(),
        "{command:?} failed: {text}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}
