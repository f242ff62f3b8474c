//! What a node and the containers on it use, as its kubelet measures it: soft state that never enters the log.

/// One look at a node. Rates are means over the window before it.
#[derive(Clone, PartialEq, prost::Message)]
pub struct NodeUsage {
    /// Unix time of the look, in milliseconds.
    #[prost(int64, tag = "1")]
    pub time_ms: i64,
    #[prost(int64, tag = "2")]
    pub window_ms: i64,
    #[prost(message, optional, tag = "3")]
    pub total: Option<Amounts>,
    #[prost(message, repeated, tag = "4")]
    pub pods: Vec<PodUsage>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct PodUsage {
    #[prost(string, tag = "1")]
    pub namespace: String,
    #[prost(string, tag = "2")]
    pub name: String,
    #[prost(message, repeated, tag = "3")]
    pub containers: Vec<ContainerUsage>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct ContainerUsage {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(message, optional, tag = "2")]
    pub amounts: Option<Amounts>,
}

#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct Amounts {
    /// Billionths of a core.
    #[prost(uint64, tag = "1")]
    pub cpu_nano: u64,
    /// The working set.
    #[prost(uint64, tag = "2")]
    pub memory_bytes: u64,
}

impl Amounts {
    /// A `ResourceList`, as metrics-server writes it.
    pub fn to_value(self) -> serde_json::Value {
        serde_json::json!({"cpu": format!("{}n", self.cpu_nano), "memory": format!("{}Ki", self.memory_bytes >> 10)})
    }
}
