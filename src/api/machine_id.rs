//! Which UUIDs can be a machine's id.
//!
//! Both ends ask the same question, since both meet the firmware's UUID first: the boot server in option 97, the agent
//! in SMBIOS. Two machines of one id would be taken for one, and one's allocation would erase the other.

use uuid::{Uuid, uuid};

/// Sample values that were left in the firmware of whole series of boards.
const SHARED: [Uuid; 9] = [
    // AMI Aptio, by far the most frequent.
    uuid!("03000200-0400-0500-0006-000700080009"),
    // Insyde, and boards whose maker filled in the sample of the documentation.
    uuid!("12345678-1234-5678-90ab-cddeefaabbcc"),
    uuid!("12345678-1234-5678-1234-567812345678"),
    uuid!("01234567-89ab-cdef-0123-456789abcdef"),
    uuid!("00010203-0405-0607-0809-0a0b0c0d0e0f"),
    uuid!("01020304-0506-0708-090a-0b0c0d0e0f10"),
    // MSI
    uuid!("88888888-8888-8888-8888-878888888888"),
    // "Not present" of which the first byte was counted up.
    uuid!("ffffff00-ffff-ffff-ffff-ffffffffffff"),
    // Dell makes it from the service tag; this is a spare board without one.
    uuid!("4c4c4544-0000-2010-8020-80c04f202020"),
];

/// Whether a UUID of a firmware tells its machine from others: not one whose bytes are all equal (not set, not
/// present), and none of the known samples, in either order of the bytes of its first groups.
pub fn is_of_one_machine(uuid: Uuid) -> bool {
    let bytes = uuid.as_bytes();
    let is_one_byte = bytes.iter().all(|byte| *byte == bytes[0]);
    !is_one_byte && !SHARED.contains(&uuid) && !SHARED.contains(&Uuid::from_bytes_le(*bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_and_equal_bytes_are_no_ones_in_either_byte_order() {
        for shared in [
            "00000000-0000-0000-0000-000000000000",
            "FFFFFFFF-FFFF-FFFF-FFFF-FFFFFFFFFFFF",
            "fefefefe-fefe-fefe-fefe-fefefefefefe",
            "11111111-1111-1111-1111-111111111111",
            "03000200-0400-0500-0006-000700080009",
            "00020003-0004-0005-0006-000700080009",
            "12345678-1234-5678-90AB-CDDEEFAABBCC",
            "03020100-0504-0706-0809-0a0b0c0d0e0f",
            "4C4C4544-0000-2010-8020-80C04F202020",
        ] {
            assert!(!is_of_one_machine(shared.parse().expect("a UUID")), "{shared}");
        }
    }

    #[test]
    fn uuids_of_real_and_of_virtual_machines_are_theirs() {
        for own in [
            "4c4c4544-0042-3510-8052-b4c04f4e3332",
            "00000000-0000-0000-0000-ac1f6b000001",
            "00000000-0000-0000-0000-00000000000a",
            "5b3c6f2a-0001-4d5e-8f00-00000000000a",
            "00112233-4455-6677-8899-aabbccddeeff",
        ] {
            assert!(is_of_one_machine(own.parse().expect("a UUID")), "{own}");
        }
    }
}
