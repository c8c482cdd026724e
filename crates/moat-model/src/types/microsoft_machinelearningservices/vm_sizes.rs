//! VM sizes that clusters may have: published figures, used for the size list and quota arithmetic.

use serde_json::{Value, json};

/// One size.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct VmSize {
    /// Name; compared without case.
    pub name: &'static str,
    /// Quota family.
    pub family: &'static str,
    /// Virtual cores.
    pub vcpus: u32,
    /// GPUs.
    pub gpus: u32,
    /// Memory in GiB.
    pub memory_gb: f64,
    /// Temporary disk in MiB.
    pub resource_volume_mb: u32,
    /// Takes premium disks.
    pub premium_io: bool,
}

const fn size(
    name: &'static str,
    family: &'static str,
    vcpus: u32,
    gpus: u32,
    memory_gb: f64,
    resource_volume_mb: u32,
    premium_io: bool,
) -> VmSize {
    VmSize { name, family, vcpus, gpus, memory_gb, resource_volume_mb, premium_io }
}

/// Every size that is offered here.
pub static ALL: &[VmSize] = &[
    size("Standard_A2_v2", "standardAv2Family", 2, 0, 4.0, 20480, false),
    size("Standard_A4_v2", "standardAv2Family", 4, 0, 8.0, 40960, false),
    size("Standard_D1_v2", "standardDv2Family", 1, 0, 3.5, 51200, false),
    size("STANDARD_D2_V2", "standardDv2Family", 2, 0, 7.0, 102400, false),
    size("STANDARD_D3_V2", "standardDv2Family", 4, 0, 14.0, 204800, false),
    size("STANDARD_D4_V2", "standardDv2Family", 8, 0, 28.0, 409600, false),
    size("STANDARD_D5_V2", "standardDv2Family", 16, 0, 56.0, 819200, false),
    size("STANDARD_D11_V2", "standardDv2Family", 2, 0, 14.0, 102400, false),
    size("STANDARD_D12_V2", "standardDv2Family", 4, 0, 28.0, 204800, false),
    size("STANDARD_D13_V2", "standardDv2Family", 8, 0, 56.0, 409600, false),
    size("STANDARD_D14_V2", "standardDv2Family", 16, 0, 112.0, 819200, false),
    size("Standard_DS1_v2", "standardDSv2Family", 1, 0, 3.5, 7168, true),
    size("Standard_DS2_v2", "standardDSv2Family", 2, 0, 7.0, 14336, true),
    size("Standard_DS3_v2", "standardDSv2Family", 4, 0, 14.0, 28672, true),
    size("Standard_DS4_v2", "standardDSv2Family", 8, 0, 28.0, 57344, true),
    size("Standard_DS5_v2", "standardDSv2Family", 16, 0, 56.0, 114688, true),
    size("Standard_DS11_v2", "standardDSv2Family", 2, 0, 14.0, 28672, true),
    size("Standard_DS12_v2", "standardDSv2Family", 4, 0, 28.0, 57344, true),
    size("Standard_D2s_v3", "standardDSv3Family", 2, 0, 8.0, 16384, true),
    size("Standard_D4s_v3", "standardDSv3Family", 4, 0, 16.0, 32768, true),
    size("Standard_D8s_v3", "standardDSv3Family", 8, 0, 32.0, 65536, true),
    size("Standard_E4s_v3", "standardESv3Family", 4, 0, 32.0, 65536, true),
    size("Standard_F2s_v2", "standardFSv2Family", 2, 0, 4.0, 16384, true),
    size("Standard_F4s_v2", "standardFSv2Family", 4, 0, 8.0, 32768, true),
    size("Standard_F8s_v2", "standardFSv2Family", 8, 0, 16.0, 65536, true),
    size("STANDARD_NC6", "standardNCFamily", 6, 1, 56.0, 389120, false),
    size("Standard_NC6s_v3", "standardNCSv3Family", 6, 1, 112.0, 344064, true),
    size("Standard_NC24ads_A100_v4", "StandardNCADSA100v4Family", 24, 1, 220.0, 1048576, true),
    size("Standard_NC4as_T4_v3", "Standard NCASv3_T4 Family", 4, 1, 28.0, 180224, true),
];

impl VmSize {
    /// Memory in bytes. Published figures are whole tenths of a GiB at the finest.
    pub fn memory_bytes(&self) -> u64 {
        // Positive and far below 2^53, so nothing is lost.
        (self.memory_gb * 1024.0) as u64 * 1024 * 1024
    }
}

/// The size with this name.
pub fn find(name: &str) -> Option<&'static VmSize> {
    ALL.iter().find(|s| s.name.eq_ignore_ascii_case(name))
}

/// The size list under both keys that clients read (PROTOCOL 6.3).
pub fn answer() -> Value {
    let sizes: Vec<Value> = ALL
        .iter()
        .map(|s| {
            json!({
                "name": s.name,
                "family": s.family,
                "vCPUs": s.vcpus,
                "gpus": s.gpus,
                "osVhdSizeMB": 1_047_552,
                "maxResourceVolumeMB": s.resource_volume_mb,
                "memoryGB": s.memory_gb,
                "lowPriorityCapable": true,
                "premiumIO": s.premium_io,
                "supportedComputeTypes": ["AmlCompute", "ComputeInstance"],
                "estimatedVMPrices": {"billingCurrency": "USD", "unitOfMeasure": "OneHour", "values": []},
            })
        })
        .collect();
    json!({ "amlCompute": sizes.clone(), "value": sizes })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_in_any_case_and_are_unique() {
        assert_eq!(find("standard_ds3_V2").map(|s| s.vcpus), Some(4));
        assert_eq!(find("Standard_D1_v2").map(VmSize::memory_bytes), Some(3584 << 20));
        let mut names: Vec<String> = ALL.iter().map(|s| s.name.to_lowercase()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), ALL.len());
    }
}
