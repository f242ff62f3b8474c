//! Users that the cluster does not know itself: of an OpenID provider, and members to be with a bootstrap token.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::{Value, json};
use skein_cluster_tests::server::{Options, Server};
use skein_cluster_tests::{BUSYBOX, Cluster};

/// A provider's key for RS256, made and used by openssl.
struct Key {
    id: String,
    file: PathBuf,
}

impl Key {
    fn make(directory: &Path, id: &str) -> Self {
        let file = directory.join(format!("{id}.pem"));
        openssl(&["genrsa", "-out", &file.display().to_string(), "2048"], b"");
        Self { id: id.into(), file }
    }

    fn jwk(&self) -> Value {
        let text = openssl(&["rsa", "-in", &self.file.display().to_string(), "-noout", "-modulus"], b"");
        let text = String::from_utf8(text).expect("text");
        let digits = text.trim().strip_prefix("Modulus=").expect("a modulus");
        let modulus: Vec<u8> =
            (0..digits.len()).step_by(2).map(|at| u8::from_str_radix(&digits[at..at + 2], 16).expect("hexadecimal")).collect();
        json!({"kty": "RSA", "alg": "RS256", "use": "sig", "kid": self.id, "n": URL_SAFE_NO_PAD.encode(modulus), "e": "AQAB"})
    }

    fn sign(&self, claims: &Value) -> String {
        let encode = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let text = format!("{}.{}", encode(&json!({"alg": "RS256", "typ": "JWT", "kid": self.id})), encode(claims));
        let signature = openssl(&["dgst", "-sha256", "-sign", &self.file.display().to_string()], text.as_bytes());
        format!("{text}.{}", URL_SAFE_NO_PAD.encode(signature))
    }
}

fn openssl(arguments: &[&str], input: &[u8]) -> Vec<u8> {
    let mut child = Command::new("openssl")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("openssl");
    child.stdin.take().expect("it is piped").write_all(input).expect("it reads");
    child.wait_with_output().expect("it ends").stdout
}

/// A time from now, as `date` writes it: `+5 seconds`, `+%s`.
fn date(offset: &str, format: &str) -> String {
    let output = Command::new("date").args(["-u", "-d", offset, format]).output().expect("date can be run");
    String::from_utf8_lossy(&output.stdout).trim().to_string()
}

/// In seconds since 1970.
fn seconds(offset: &str) -> u64 {
    date(offset, "+%s").parse().expect("a number")
}

#[test]
fn users_of_an_openid_provider_are_known_on_every_node() {
    let directory = std::env::temp_dir().join(format!("skein-openid-{}", std::process::id()));
    std::fs::create_dir_all(&directory).expect("a directory");
    let (key, other) = (Key::make(&directory, "one"), Key::make(&directory, "two"));
    let keys = json!({"keys": [key.jwk()]});
    // The laboratory's bridge, on which nodes reach this machine, is there only when the cluster is.
    let options = Options { host: "0.0.0.0", names: vec!["198.18.0.1".into()], client_authority: None };
    let server = Server::serve(options, move |asked| {
        let host = asked.headers.iter().find(|(name, _)| name == "host").map(|(_, host)| host.clone()).unwrap_or_default();
        let issuer = format!("https://{host}");
        if asked.path.starts_with("/.well-known/") { json!({"issuer": issuer, "jwks_uri": format!("{issuer}/keys")}) } else { keys.clone() }
    });
    let ca = directory.join("ca.crt");
    std::fs::write(&ca, STANDARD.decode(&server.bundle).expect("base64")).expect("the CA is written");
    let issuer = format!("https://198.18.0.1:{}", server.address.rsplit(':').next().expect("a port"));
    let arguments = [
        format!("--oidc-issuer-url={issuer}"),
        "--oidc-client-id=skein".into(),
        "--oidc-username-prefix=oidc:".into(),
        "--oidc-groups-claim=groups".into(),
        format!("--oidc-ca-file={}", ca.display()),
    ];
    let cluster = Cluster::build(&skein_lab::Plan { arguments: arguments.into(), ..skein_lab::Plan::new(3) });
    cluster.kubectl("node-1", &["create", "clusterrolebinding", "readers", "--clusterrole=view", "--group=readers"]);

    let claims = json!({"iss": issuer, "aud": ["skein"], "sub": "ada", "groups": ["readers"], "exp": seconds("+600 seconds")});
    let with = |field: &str, value: Value| {
        let mut claims = claims.clone();
        claims[field] = value;
        claims
    };
    let pods = "/api/v1/namespaces/default/pods";
    let token = key.sign(&claims);
    for node in 1..=3 {
        cluster.until("the node knows her", || (cluster.request_as(node, Some(&token), pods).0 == 200).then_some(()));
        let (code, status) = cluster.request_as(node, Some(&token), "/api/v1/secrets");
        assert_eq!(code, 403);
        assert!(status["message"].as_str().unwrap_or_default().contains("User \"oidc:ada\" cannot list"), "{status}");
        for wrong in [
            key.sign(&with("aud", json!("others"))),
            key.sign(&with("exp", json!(seconds("-60 seconds")))),
            key.sign(&with("iss", json!("https://elsewhere"))),
            key.sign(&with("sub", json!(""))),
            other.sign(&claims),
        ] {
            assert_eq!(cluster.request_as(node, Some(&wrong), pods).0, 401);
        }
    }
    let review = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": token}}).to_string();
    let (_, review) = cluster.request(2, "POST", "/apis/authentication.k8s.io/v1/tokenreviews", Some(&review));
    assert_eq!(review["status"]["user"]["groups"], json!(["readers", "system:authenticated"]), "{review}");
}

#[test]
fn bootstrap_tokens_hold_until_they_end() {
    let cluster = Cluster::start();
    let secret = |id: &str, expiration: &str| {
        format!(
            r#"
apiVersion: v1
kind: Secret
metadata: {{name: bootstrap-token-{id}, namespace: kube-system}}
type: bootstrap.kubernetes.io/token
stringData: {{token-id: {id}, token-secret: 0123456789abcdef, usage-bootstrap-authentication: "true", expiration: "{expiration}"}}
"#
        )
    };
    cluster.apply("node-1", &secret("ending", &date("+5 seconds", "+%Y-%m-%dT%H:%M:%SZ")));
    cluster.apply("node-1", &secret("lasts1", "2100-01-01T00:00:00Z"));
    cluster.kubectl("node-1", &["create", "clusterrolebinding", "members", "--clusterrole=view", "--group=system:bootstrappers"]);
    let code = |node: usize, token: &str| cluster.request_as(node, Some(token), "/api/v1/namespaces/default/pods").0;
    for node in 1..=3 {
        cluster.until("the token is known", || (code(node, "lasts1.0123456789abcdef") == 200).then_some(()));
        assert_eq!(code(node, "lasts1.0123456789abcdee"), 401);
    }
    cluster.until("it has ended", || (code(2, "ending.0123456789abcdef") == 401).then_some(()));
    cluster.until("its Secret is gone", || {
        cluster
            .try_kubectl("node-3", &["get", "secret", "-n", "kube-system", "bootstrap-token-ending"])
            .err()
            .filter(|e| e.contains("NotFound"))
    });
    assert_eq!(code(1, "lasts1.0123456789abcdef"), 200);
}

const REQUESTS: &str = "/apis/certificates.k8s.io/v1/namespaces/default/podcertificaterequests";

/// The one request that there is, once it is there.
fn request(cluster: &Cluster) -> Option<serde_json::Value> {
    let (_, list) = cluster.request(2, "GET", REQUESTS, None);
    list["items"].as_array()?.first().cloned()
}

/// What a signer would answer to a request, and until when the kubelet is to keep that.
fn answer(cluster: &Cluster, request: &serde_json::Value, refresh: &str) -> serde_json::Value {
    let directory = cluster.directory();
    let file = |name: &str| directory.join(name).display().to_string();
    let der = STANDARD.decode(request["spec"]["stubPKCS10Request"].as_str().expect("a request")).expect("base64");
    std::fs::write(file("request.der"), der).expect("a file");
    let asked = ["x509", "-req", "-inform", "DER", "-in", &file("request.der"), "-CA", &file("signer.crt"), "-CAkey", &file("signer.key")];
    let chain = openssl(&[&asked[..], &["-CAcreateserial", "-days", "1"]].concat(), b"");
    let said = openssl(&["x509", "-noout", "-dates", "-dateopt", "iso_8601"], &chain);
    let said = String::from_utf8_lossy(&said).replace(' ', "T");
    let time = |name: &str| said.lines().find_map(|line| line.strip_prefix(name)).expect("a time").to_string();
    let format = "+%Y-%m-%dT%H:%M:%SZ";
    json!({"status": {
        "conditions": [{"type": "Issued", "status": "True", "reason": "Signed", "message": "", "lastTransitionTime": date("now", format)}],
        "certificateChain": String::from_utf8(chain).expect("text"),
        "notBefore": time("notBefore="), "notAfter": time("notAfter="), "beginRefreshAt": date(refresh, format),
    }})
}

#[test]
fn a_pod_has_certificates_of_its_own() {
    let cluster = Cluster::start();
    cluster.load_busybox();
    let file = |name: &str| cluster.directory().join(name).display().to_string();
    openssl(
        &[
            "req",
            "-x509",
            "-newkey",
            "rsa:2048",
            "-nodes",
            "-subj",
            "/CN=signer",
            "-keyout",
            &file("signer.key"),
            "-out",
            &file("signer.crt"),
        ],
        b"",
    );
    let source = "{podCertificate: {signerName: example.com/test, keyType: ECDSAP256, credentialBundlePath: bundle.pem, userAnnotations: {example.com/for: tests}}}";
    cluster.apply("node-1", &format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: certified}}\nspec:\n  terminationGracePeriodSeconds: 1\n  volumes: [{{name: own, projected: {{sources: [{source}]}}}}]\n  containers: [{{name: main, image: {BUSYBOX}, command: [sleep, '3600'], volumeMounts: [{{name: own, mountPath: /own}}]}}]\n"
    ));
    let asked = cluster.until("it asks for one", || request(&cluster));
    assert_eq!((&asked["spec"]["signerName"], &asked["spec"]["podName"]), (&"example.com/test".into(), &"certified".into()));
    assert_eq!(asked["spec"]["unverifiedUserAnnotations"]["example.com/for"], "tests");
    let place = format!("{REQUESTS}/{}/status", asked["metadata"]["name"].as_str().expect("a name"));
    let say = |status: &serde_json::Value| cluster.request(3, "PATCH", &place, Some(&status.to_string()));
    // A signer cannot answer for another key, nor with times that are not the certificate's.
    let right = answer(&cluster, &asked, "+1 hour");
    let mut wrong = right.clone();
    wrong["status"]["certificateChain"] = String::from_utf8(std::fs::read(file("signer.crt")).expect("a file")).expect("text").into();
    let refused = say(&wrong);
    assert_eq!(refused.0, 422, "{}", refused.1);
    assert!(refused.1["message"].as_str().is_some_and(|why| why.contains("not issued to the requested public key")), "{}", refused.1);
    let early = say(&answer(&cluster, &asked, "+5 minutes"));
    assert!(early.1["message"].as_str().is_some_and(|why| why.contains("at least 10 minutes after status.notBefore")), "{}", early.1);
    // Who may write statuses may still not sign for every signer.
    cluster.kubectl(
        "node-1",
        &["create", "role", "writer", "--verb=get,patch", "--resource=podcertificaterequests.certificates.k8s.io/status"],
    );
    cluster.kubectl("node-1", &["create", "rolebinding", "writer", "--role=writer", "--user=somebody"]);
    let name = asked["metadata"]["name"].as_str().expect("a name");
    let patch = ["patch", "podcertificaterequest", name, "--subresource=status", "--type=merge", "--as=somebody", "-p", &right.to_string()]
        .map(String::from);
    let unasked = cluster.try_kubectl("node-2", &patch.iter().map(String::as_str).collect::<Vec<_>>()).expect_err("he may not");
    assert!(unasked.contains("User \"somebody\" is not permitted to \"sign\" for signer \"example.com/test\""), "{unasked}");
    let (code, said) = say(&right);
    assert_eq!(code, 200, "{said}");
    cluster.kubectl("node-2", &["wait", "--for=condition=Ready", "pod/certified", "--timeout=60s"]);
    let first = cluster.kubectl("node-3", &["exec", "certified", "--", "cat", "/own/bundle.pem"]);
    std::fs::write(file("bundle.pem"), &first).expect("a file");
    let by_key = openssl(&["pkey", "-in", &file("bundle.pem"), "-pubout"], b"");
    let by_certificate = openssl(&["x509", "-in", &file("bundle.pem"), "-noout", "-pubkey"], b"");
    assert!(!by_key.is_empty() && by_key == by_certificate, "{first}");
    let verified = openssl(&["verify", "-CAfile", &file("signer.crt"), &file("bundle.pem")], b"");
    assert!(String::from_utf8_lossy(&verified).contains("OK"));
    cluster.kubectl("node-1", &["delete", "pod", "certified"]);
    cluster.until("what it asked for has gone with it", || {
        cluster.request(1, "GET", REQUESTS, None).1["items"].as_array().is_some_and(Vec::is_empty).then_some(())
    });
}
