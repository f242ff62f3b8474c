//! Images from registries and archives, good and bad, on both runtimes.

use skein_cluster_tests::registry::{Access, PASSWORD, Registry, USER};
use skein_cluster_tests::{Cluster, busybox};
use skein_lab::Runtime;

skein_cluster_tests::on_both_runtimes!(images_come_from_registries_with_and_without_a_password, bad_images_are_explained);

fn pod(name: &str, image: &str, extra: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  restartPolicy: Never\n  terminationGracePeriodSeconds: 0\n{extra}  containers: [{{name: c, image: \"{image}\", command: [echo, pulled]}}]\n---\n"
    )
}

/// The registries of one test process: each test and runtime at ports of its own.
fn serve(base: u16) -> Vec<Registry> {
    let kinds = [Access::Anonymous, Access::Basic, Access::Token];
    kinds
        .into_iter()
        .zip(base..)
        .map(|(access, port)| busybox(|image| Registry::serve(&format!("198.18.0.1:{port}"), access, image)))
        .collect()
}

fn images_come_from_registries_with_and_without_a_password(runtime: Runtime) {
    let base = if runtime == Runtime::Skein { 5000 } else { 5010 };
    let addresses: Vec<String> = (base..base + 3).map(|port| format!("198.18.0.1:{port}")).collect();
    let cluster = Cluster::with_runtime(runtime, &addresses);
    let registries = serve(base);
    let auth = |registry: &Registry| format!("--docker-server={}", registry.address);
    for (name, registry) in [("basic", &registries[1]), ("token", &registries[2])] {
        let (user, password) = (format!("--docker-username={USER}"), format!("--docker-password={PASSWORD}"));
        cluster.kubectl("node-1", &["create", "secret", "docker-registry", name, &auth(registry), &user, &password]);
    }
    let image = |index: usize| format!("{}/team/app:1", registries[index].address);
    let secret = |name: &str| format!("  imagePullSecrets: [{{name: {name}}}]\n");
    let manifest = [
        pod("open", &image(0), ""),
        pod("basic", &image(1), &secret("basic")),
        pod("token", &image(2), &secret("token")),
        pod("refused", &image(1).replace("team/app", "team/other"), ""),
    ];
    cluster.apply("node-1", &manifest.concat());
    let field = |name: &str, path: &str| cluster.kubectl("node-2", &["get", "pod", name, "-o", &format!("jsonpath={{{path}}}")]);
    for name in ["open", "basic", "token"] {
        cluster.until(&format!("{name} has run"), || (field(name, ".status.phase") == "Succeeded").then_some(()));
        assert_eq!(cluster.kubectl("node-3", &["logs", name]), "pulled\n");
        let id = field(name, ".status.containerStatuses[0].imageID");
        assert!(id.contains("sha256:"), "{id}");
    }
    let waiting = ".status.containerStatuses[0].state.waiting";
    cluster.until("the refused Pod says so", || field("refused", &format!("{waiting}.reason")).contains("Pull").then_some(()));
    let events = cluster.kubectl("node-1", &["get", "events", "--field-selector", "involvedObject.name=open"]);
    assert!(events.contains("Successfully pulled image"), "{events}");
}

fn bad_images_are_explained(runtime: Runtime) {
    let unreachable = "198.18.0.1:5999".to_string();
    let cluster = Cluster::with_runtime(runtime, std::slice::from_ref(&unreachable));
    let archive = cluster.busybox_archive();
    // An archive that was cut off is refused, and nothing of it stays.
    let bytes = std::fs::read(&archive).expect("the archive can be read");
    let cut = cluster.directory().join("cut.tar");
    std::fs::write(&cut, &bytes[..bytes.len() / 2]).expect("a file can be written");
    let refused = cluster.lab.load(&cut).map_err(|why| format!("{why:#}"));
    assert!(refused.is_err(), "half an archive was loaded");
    let nonsense = cluster.directory().join("nonsense.tar");
    std::fs::write(&nonsense, b"this is not an image").expect("a file can be written");
    assert!(cluster.lab.load(&nonsense).is_err());
    let image = format!("{unreachable}/team/app:1");
    cluster.apply("node-1", &[pod("far", &image, ""), pod("odd", "UPPER/case:1", "")].concat());
    let reason =
        |name: &str| cluster.kubectl("node-2", &["get", "pod", name, "-o", "jsonpath={.status.containerStatuses[0].state.waiting.reason}"]);
    cluster
        .until("the unreachable registry is told", || matches!(reason("far").as_str(), "ErrImagePull" | "ImagePullBackOff").then_some(()));
    cluster.until("the malformed name is told", || {
        matches!(reason("odd").as_str(), "InvalidImageName" | "ErrImagePull" | "ImagePullBackOff").then_some(())
    });
    let events = cluster.kubectl("node-1", &["describe", "pod", "far"]);
    assert!(events.contains("failed to pull") || events.contains("Failed to pull"), "{events}");
    assert!(events.contains("refused") || events.contains("198.18.0.1:5999"), "{events}");
    // The nodes are well.
    cluster.lab.load(&archive).expect("a whole archive loads");
    assert!(cluster.kubectl("node-1", &["get", "nodes"]).matches(" Ready").count() == 3);
}
