//! More nodes than the leader feeds: the others have the log from each other, outside Raft's membership.

use serde_json::Value;
use skein_cluster_tests::Cluster;
use skein_lab::Scope;

/// Three voters, two standbys and one more.
const NODES: usize = 6;

fn nodes(cluster: &Cluster, asked: &str) -> Vec<Value> {
    cluster.status(asked)["nodes"].as_array().cloned().unwrap_or_default()
}

fn of_role(cluster: &Cluster, asked: &str, role: &str) -> Vec<String> {
    let named = nodes(cluster, asked).into_iter().filter(|node| node["role"] == role);
    named.filter_map(|node| node["name"].as_str().map(String::from)).collect()
}

/// The only replica, once there is one, and the node that it follows.
fn replica(cluster: &Cluster, asked: &str) -> (String, String) {
    cluster.until("there is one replica, and it follows a node", || {
        let [replica] = of_role(cluster, asked, "replica").try_into().ok()?;
        let status = nodes(cluster, &replica);
        let own = status.iter().find(|node| node["name"] == replica.as_str())?;
        Some((replica, own["follows"].as_str()?.to_string()))
    })
}

/// Writes through one node, and sees it in the replica of another, without asking anybody else.
fn reaches(cluster: &Cluster, through: &str, replica: &str, name: &str) {
    cluster.until(&format!("{through} takes {name}"), || {
        // One whose answer was lost is there.
        let found = cluster.try_kubectl(through, &["get", "configmap", name, "-o", "name"]);
        found.or_else(|_| cluster.try_kubectl(through, &["create", "configmap", name])).ok()
    });
    let path = format!("/api/v1/namespaces/default/configmaps/{name}?resourceVersion=0");
    cluster.until(&format!("{replica} has {name}"), || cluster.try_kubectl(replica, &["get", "--raw", &path]).ok());
}

#[test]
fn a_node_that_the_leader_does_not_feed_follows_another() {
    let cluster = Cluster::with_nodes(NODES);
    let leader = cluster.leader("node-1");
    let (last, parent) = replica(&cluster, &leader);
    assert_ne!(parent, leader, "the leader is left alone");
    assert_eq!(of_role(&cluster, &leader, "voter").len() + of_role(&cluster, &leader, "standby").len(), 4);
    let other = ["node-1", "node-2", "node-3"].into_iter().find(|node| *node != last && *node != parent).unwrap_or("node-1");
    reaches(&cluster, other, &last, "at-first");
    reaches(&cluster, &last, &last, "through-the-replica");
    cluster.until("the leader knows how far it is", || {
        nodes(&cluster, &leader).iter().any(|node| node["name"] == last.as_str() && node["lag"] == 0).then_some(())
    });

    // It follows another when that one goes, and knows the next leader.
    cluster.lab.kill(&parent, Scope::Daemon).expect("it can be killed");
    let next = cluster.until("it follows another", || {
        let own = nodes(&cluster, &last).into_iter().find(|node| node["name"] == last.as_str())?;
        own["follows"].as_str().filter(|follows| *follows != parent).map(String::from)
    });
    assert_ne!(next, leader);
    reaches(&cluster, &last, &last, "without-its-parent");
    cluster.lab.start(&parent).expect("it can be started");
    cluster.until("all are well", || nodes(&cluster, &leader).iter().all(|node| node["lag"] == 0).then_some(()));
    let leader = cluster.leader(&last);
    cluster.lab.kill(&leader, Scope::Daemon).expect("it can be killed");
    reaches(&cluster, &last, &last, "without-that-leader");
    cluster.lab.start(&leader).expect("it can be started");

    // It was away for a while, or stood still.
    cluster.lab.pause(&last, Scope::Daemon).expect("it can be paused");
    let ready = r#"jsonpath={.status.conditions[?(@.type=="Ready")].status}"#;
    let is = |wanted: &str| (cluster.try_kubectl(other, &["get", "node", &last, "-o", ready]).ok()? == wanted).then_some(());
    cluster.until("it is missed", || is("Unknown"));
    cluster.lab.resume(&last, Scope::Daemon).expect("it can go on");
    reaches(&cluster, other, &last, "after-a-pause");
    cluster.lab.kill(&last, Scope::Machine).expect("it can be killed");
    cluster.lab.start(&last).expect("it can be started");
    reaches(&cluster, other, &last, "after-a-restart");
    // A replica runs Pods like every node.
    cluster.until("it is ready", || is("True"));

    // Two of the voters are lost, one after the other: the standbys vote, and the replica takes the place of one of them.
    let leader = cluster.leader(&last);
    for lost in of_role(&cluster, &leader, "voter") {
        cluster.lab.kill(&lost, Scope::Machine).expect("it can be killed");
        cluster.until(&format!("another votes instead of {lost}"), || {
            let voters = of_role(&cluster, &leader, "voter");
            (voters.len() == 2 && !voters.contains(&lost)).then_some(())
        });
    }
    cluster.until("the leader feeds it now", || (!of_role(&cluster, &leader, "replica").contains(&last)).then_some(()));
    reaches(&cluster, &leader, &last, "as-a-member");
}
