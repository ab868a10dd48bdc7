//! BootService: the calls of boot servers and agents.

use time::OffsetDateTime;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::peer::Peer;
use super::status;
use super::wait;
use crate::anvil::machines::{self, Partition};
use crate::anvil::refusal::Refusal;
use crate::anvil::sizes::Matching;
use crate::anvil::state::Anvil;
use crate::api::event::ProvisioningEvent;
use crate::api::grpc::boot_service_server::BootService;
use crate::api::grpc::{
    BootInfo, BootServiceAbortReinstallRequest, BootServiceAbortReinstallResponse, BootServiceBootRequest,
    BootServiceBootResponse, BootServiceDhcpRequest, BootServiceDhcpResponse, BootServiceRegisterRequest,
    BootServiceRegisterResponse, BootServiceReportRequest, BootServiceReportResponse,
    BootServiceSuperUserPasswordRequest, BootServiceSuperUserPasswordResponse, BootServiceWaitRequest,
    BootServiceWaitResponse,
};

pub(super) struct Boot {
    anvil: Anvil,
}

impl Boot {
    pub(super) fn new(anvil: Anvil) -> Self {
        Self { anvil }
    }
}

#[tonic::async_trait]
impl BootService for Boot {
    async fn dhcp(
        &self,
        request: Request<BootServiceDhcpRequest>,
    ) -> Result<Response<BootServiceDhcpResponse>, Status> {
        let peer = Peer::of(&request);
        let uuid = request.into_inner().uuid;
        peer.expect_boot_server_or(&self.anvil, &uuid).await?;
        let message = "machine sent extended dhcp request";
        machines::receive_event(&self.anvil, &uuid, ProvisioningEvent::PxeBooting, message).await.map_err(status)?;
        Ok(Response::new(BootServiceDhcpResponse {}))
    }

    async fn boot(
        &self,
        request: Request<BootServiceBootRequest>,
    ) -> Result<Response<BootServiceBootResponse>, Status> {
        Peer::of(&request).expect_boot_server(&self.anvil).await?;
        let id = request.into_inner().partition_id;
        let partition: Partition = self.anvil.store.run(move |tx| tx.expect(&id)).await.map_err(status)?;
        Ok(Response::new(BootServiceBootResponse {
            kernel: partition.bootconfig.kernelurl,
            init_ram_disks: vec![partition.bootconfig.imageurl],
            cmdline: Some(partition.bootconfig.commandline),
        }))
    }

    /// No password: anvil leaves BMCs alone. Clients decide on the password being empty, whatever the flag says.
    async fn super_user_password(
        &self,
        _request: Request<BootServiceSuperUserPasswordRequest>,
    ) -> Result<Response<BootServiceSuperUserPasswordResponse>, Status> {
        Ok(Response::new(BootServiceSuperUserPasswordResponse {
            feature_disabled: true,
            super_user_password: String::new(),
        }))
    }

    async fn register(
        &self,
        request: Request<BootServiceRegisterRequest>,
    ) -> Result<Response<BootServiceRegisterResponse>, Status> {
        let peer = Peer::of(&request);
        let request = request.into_inner();
        let uuid = request.uuid.clone();
        peer.expect_machine(&self.anvil, &uuid).await?;
        let matching = self.anvil.config.sizes.matching();
        let registered = self.anvil.store.run(move |tx| register(tx, &request, matching)).await.map_err(status)?;
        // Stored all the same, as metal-api does, which finds out only when it looks for the machine's switches.
        if registered.partition.is_empty() {
            return Err(Status::unknown("partition id is empty"));
        }
        tracing::info!(machine = %uuid, size = %registered.size, "registered");
        Ok(Response::new(BootServiceRegisterResponse {
            uuid,
            size: registered.size,
            partition_id: registered.partition,
        }))
    }

    type WaitStream = ReceiverStream<Result<BootServiceWaitResponse, Status>>;

    async fn wait(&self, request: Request<BootServiceWaitRequest>) -> Result<Response<Self::WaitStream>, Status> {
        let peer = Peer::of(&request);
        let id = request.into_inner().machine_id;
        peer.expect_machine(&self.anvil, &id).await?;
        let stream = wait::start(self.anvil.clone(), id).await.map_err(status)?;
        Ok(Response::new(stream))
    }

    async fn report(
        &self,
        request: Request<BootServiceReportRequest>,
    ) -> Result<Response<BootServiceReportResponse>, Status> {
        let peer = Peer::of(&request);
        let request = request.into_inner();
        let id = request.uuid.clone();
        peer.expect_machine(&self.anvil, &id).await?;
        let now = OffsetDateTime::now_utc();
        self.anvil.store.run(move |tx| machines::report(tx, &request, now)).await.map_err(status)?;
        self.anvil.live.clear(&id);
        tracing::info!(machine = %id, "installation reported");
        Ok(Response::new(BootServiceReportResponse {}))
    }

    async fn abort_reinstall(
        &self,
        request: Request<BootServiceAbortReinstallRequest>,
    ) -> Result<Response<BootServiceAbortReinstallResponse>, Status> {
        let peer = Peer::of(&request);
        let BootServiceAbortReinstallRequest { uuid, primary_disk_wiped } = request.into_inner();
        let id = uuid.clone();
        peer.expect_machine(&self.anvil, &id).await?;
        let now = OffsetDateTime::now_utc();
        let boot_info = self
            .anvil
            .store
            .run(move |tx| machines::abort_reinstall(tx, &uuid, primary_disk_wiped, now))
            .await
            .map_err(status)?;
        tracing::info!(machine = %id, primary_disk_wiped, "reinstallation aborted");
        let boot_info = boot_info.map(|boot| BootInfo {
            image_id: boot.image_id,
            primary_disk: boot.primary_disk,
            os_partition: boot.os_partition,
            initrd: boot.initrd,
            cmdline: boot.cmdline,
            kernel: boot.kernel,
            bootloader_id: boot.bootloaderid,
        });
        Ok(Response::new(BootServiceAbortReinstallResponse { boot_info }))
    }
}

fn register(
    tx: &crate::anvil::store::Tx<'_>,
    request: &BootServiceRegisterRequest,
    matching: Matching,
) -> Result<machines::Registered, Refusal> {
    if request.uuid.is_empty() {
        return Err(Refusal::BadRequest("uuid is empty".to_owned()));
    }
    let Some(hardware) = &request.hardware else {
        return Err(Refusal::BadRequest("hardware is missing".to_owned()));
    };
    let Some(bios) = &request.bios else {
        return Err(Refusal::BadRequest("bios is missing".to_owned()));
    };
    machines::register(tx, request, hardware, bios, matching, OffsetDateTime::now_utc())
}
