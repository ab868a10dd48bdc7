//! A real anvil on loopback, and real clients for it.

// Each test binary uses its own part of this.
#![allow(dead_code)]

use std::path::Path;
use std::time::Duration;

use drophammer::anvil::client::Client;
use drophammer::anvil::config::{Config, parse_config};
use drophammer::anvil::keys::{Key, key_file, read_key};
use drophammer::anvil::rack;
use drophammer::anvil::serve::{self, Listeners};
use drophammer::anvil::state::Anvil;
use drophammer::api::grpc;
use drophammer::api::grpc::boot_service_client::BootServiceClient;
use drophammer::api::grpc::event_service_client::EventServiceClient;
use drophammer::api::hmac::Role;
use drophammer::api::layout::FilesystemLayout;
use drophammer::api::rest::{AllocateRequest, Image};
use tempfile::TempDir;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};

pub const MACHINE: &str = "00000000-0000-4000-8000-000000000001";
pub const MAC: &str = "02:00:00:00:00:01";
pub const IMAGE: &str = "debian-12.0.20260701";

/// A server in this process, stopped by [`Server::stop`].
pub struct Server {
    pub anvil: Anvil,
    pub dir: TempDir,
    stop: oneshot::Sender<()>,
    task: JoinHandle<anyhow::Result<()>>,
}

impl Server {
    pub async fn start() -> Self {
        Self::start_with("").await
    }

    /// With these lines of YAML in its configuration.
    pub async fn start_with(more: &str) -> Self {
        Self::start_as(more, |_| {}, |_| axum::Router::new()).await
    }

    /// With the routes that machines boot by, too; there is nothing to boot.
    pub async fn start_rack(more: &str) -> Self {
        let nothing = |config: &mut Config| {
            config.partition.bootconfig.kernel = Some("/nonexistent/vmlinuz".into());
            config.partition.bootconfig.initrd = Some("/nonexistent/initrd".into());
        };
        Self::start_as(more, nothing, |anvil| rack::routes(anvil).unwrap()).await
    }

    async fn start_as(more: &str, change: impl Fn(&mut Config), routes: impl Fn(&Anvil) -> axum::Router) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut config: Config = parse_config(&format!(
            "listen: 127.0.0.1
http_port: 0
https_port: 0
grpc_port: 0
partition: {{id: lab, dns_servers: [{{ip: 10.77.0.1}}], ntp_servers: [{{address: 10.77.0.1}}],
             bootconfig: {{commandline: 'console=ttyS0,115200n8'}}}}
{more}
"
        ))
        .unwrap();
        config.data = dir.path().join("data");
        change(&mut config);
        let listeners = Listeners::bind(&config).await.unwrap();
        let anvil = serve::open(config, listeners.endpoints().unwrap()).unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let shutdown = async move { drop(stopped.await) };
        let task = tokio::spawn(serve::run(anvil.clone(), listeners, routes(&anvil), shutdown));
        Self { anvil, dir, stop, task }
    }

    pub fn url(&self) -> String {
        self.anvil.endpoints.http_url()
    }

    pub fn key(&self, role: Role) -> Key {
        Key { role, secret: self.anvil.keys.secret(role).to_owned() }
    }

    pub fn rest(&self, role: Role) -> Client {
        Client::new(&self.url(), self.key(role)).unwrap()
    }

    pub async fn channel(&self) -> Channel {
        let config = self.anvil.metal_config();
        let tls =
            agent_tls(&config.ca_cert.unwrap()).identity(Identity::from_pem(config.cert.unwrap(), config.key.unwrap()));
        connect(&config.address.unwrap(), tls).await.unwrap()
    }

    pub async fn boot_service(&self) -> BootServiceClient<Channel> {
        BootServiceClient::new(self.channel().await)
    }

    pub async fn event_service(&self) -> EventServiceClient<Channel> {
        EventServiceClient::new(self.channel().await)
    }

    pub async fn stop(self) -> TempDir {
        self.stop.send(()).unwrap();
        self.task.await.unwrap().unwrap();
        self.dir
    }
}

pub fn agent_tls(ca: &str) -> ClientTlsConfig {
    ClientTlsConfig::new().ca_certificate(Certificate::from_pem(ca)).domain_name("127.0.0.1")
}

pub async fn connect(address: &str, tls: ClientTlsConfig) -> Result<Channel, tonic::transport::Error> {
    Endpoint::from_shared(format!("https://{address}"))?
        .tls_config(tls)?
        .connect_timeout(Duration::from_secs(10))
        .connect()
        .await
}

/// A key file's content of a data directory.
pub fn read_admin_key(data: &Path) -> Key {
    read_key(&key_file(&data.join("hmac"), Role::Admin)).unwrap()
}

/// A small virtual machine.
pub fn register_request(uuid: &str) -> grpc::BootServiceRegisterRequest {
    grpc::BootServiceRegisterRequest {
        uuid: uuid.to_owned(),
        hardware: Some(grpc::MachineHardware {
            memory: 2 << 30,
            disks: vec![grpc::MachineBlockDevice { name: "/dev/vda".into(), size: 8 << 30 }],
            nics: vec![grpc::MachineNic { mac: MAC.to_uppercase(), name: "eth0".into(), ..Default::default() }],
            cpus: vec![grpc::MachineCpu { vendor: "v".into(), model: "QEMU Virtual CPU".into(), cores: 2, threads: 2 }],
            gpus: vec![],
        }),
        bios: Some(grpc::MachineBios { version: "1".into(), vendor: "SeaBIOS".into(), date: "04/01/2014".into() }),
        partition_id: "lab".into(),
        metal_hammer_version: "drophammer test".into(),
        ..Default::default()
    }
}

pub fn report_request(uuid: &str) -> grpc::BootServiceReportRequest {
    grpc::BootServiceReportRequest {
        uuid: uuid.to_owned(),
        console_password: "secret".into(),
        boot_info: Some(grpc::BootInfo { kernel: "/boot/vmlinuz".into(), ..Default::default() }),
        success: true,
        message: String::new(),
    }
}

/// An image by URL, and a layout that goes with size `small`, which is what [`register_request`] is.
pub async fn add_offer(server: &Server) {
    let admin = server.rest(Role::Admin);
    let image = Image { id: IMAGE.into(), url: "http://10.77.0.1:4242/img.tar.zst".into(), ..Image::default() };
    let _: Image = admin.put("/v1/image", &image).await.unwrap();
    let layout = serde_json::json!({
        "id": "vm",
        "constraints": { "sizes": ["small"], "images": { "debian": "*" } },
        "disks": [{ "device": "/dev/vda", "wipeonreinstall": true, "partitions": [
            { "number": 1, "label": "root", "size": 0, "gpttype": "8300" }]}],
        "filesystems": [{ "path": "/", "device": "/dev/vda1", "format": "ext4", "label": "root" }],
        "raid": null
    });
    let _: FilesystemLayout = admin.put("/v1/filesystemlayout", &layout).await.unwrap();
    let size = serde_json::json!({ "id": "small", "constraints": [
        { "type": "cores", "min": 1, "max": 4 },
        { "type": "memory", "min": 1_u64 << 30, "max": 4_u64 << 30 },
        { "type": "storage", "min": 1, "max": 1_u64 << 40, "identifier": "/dev/vd*" }] });
    let _: serde_json::Value = admin.put("/v1/size", &size).await.unwrap();
}

pub fn allocate_request() -> AllocateRequest {
    AllocateRequest { imageid: IMAGE.into(), hostname: "web-1".into(), projectid: "p".into(), ..Default::default() }
}
