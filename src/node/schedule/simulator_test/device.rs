//! Modelled devices.

/// Bytes in a mebibyte.
pub(super) const MIB: f64 = 1_048_576.0;

/// What a device does in a second, and how long one small access takes on it when it is idle.
#[derive(Clone, Copy, Debug)]
pub(super) struct Device {
    pub(super) name: &'static str,
    pub(super) bytes_per_second: f64,
    pub(super) access_seconds: f64,
    /// Bytes above `baseline` that it moves at its full speed before it falls back to that; they come back while less is
    /// asked for.
    pub(super) credits: f64,
    pub(super) baseline: f64,
}

impl Device {
    const fn steady(name: &'static str, bytes_per_second: f64, access_seconds: f64) -> Self {
        Self { name, bytes_per_second, access_seconds, credits: f64::INFINITY, baseline: bytes_per_second }
    }
}

pub(super) const HDD: Device = Device::steady("hdd", 120.0 * MIB, 9e-3);
pub(super) const SATA: Device = Device::steady("sata-ssd", 450.0 * MIB, 120e-6);
pub(super) const NVME: Device = Device::steady("nvme-ssd", 2500.0 * MIB, 25e-6);
pub(super) const CLOUD: Device = Device {
    name: "cloud-disk",
    bytes_per_second: 250.0 * MIB,
    access_seconds: 800e-6,
    credits: 4096.0 * MIB,
    baseline: 60.0 * MIB,
};
pub(super) const DEVICES: [Device; 4] = [HDD, SATA, NVME, CLOUD];
