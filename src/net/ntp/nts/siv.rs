//! AEAD_AES_SIV_CMAC_256 (RFC 5297), by name the cipher of NTS.

use aes_siv::KeyInit;
use aes_siv::siv::Aes128Siv;

/// Encrypts `plain`, and vouches for it and `headers` (for NTS: associated data, nonce). `None` when there are more
/// headers than the cipher takes, which is over a hundred.
pub fn seal(key: &[u8; 32], headers: &[&[u8]], plain: &[u8]) -> Option<Vec<u8>> {
    Aes128Siv::new(&(*key).into()).encrypt(headers, plain).ok()
}

/// What [`seal`] encrypted; `None` when anything was changed.
pub fn open(key: &[u8; 32], headers: &[&[u8]], sealed: &[u8]) -> Option<Vec<u8>> {
    Aes128Siv::new(&(*key).into()).decrypt(headers, sealed).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(text: &str) -> Vec<u8> {
        hex::decode(text).unwrap()
    }

    /// RFC 5297 appendix A.
    #[test]
    fn the_cipher_is_the_one_of_the_rfc() {
        let key = bytes("fffefdfcfbfaf9f8f7f6f5f4f3f2f1f0f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff").try_into().unwrap();
        let header = bytes("101112131415161718191a1b1c1d1e1f2021222324252627");
        let plain = bytes("112233445566778899aabbccddee");
        let sealed = seal(&key, &[&header], &plain).unwrap();
        assert_eq!(sealed, bytes("85632d07c6e8f37f950acd320a2ecc9340c02b9690c4dc04daef7f6afe5c"));
        assert_eq!(open(&key, &[&header], &sealed), Some(plain));

        let key = bytes("7f7e7d7c7b7a79787776757473727170404142434445464748494a4b4c4d4e4f").try_into().unwrap();
        let first = bytes("00112233445566778899aabbccddeeffdeaddadadeaddadaffeeddccbbaa99887766554433221100");
        let (second, nonce) = (bytes("102030405060708090a0"), bytes("09f911029d74e35bd84156c5635688c0"));
        let plain = b"this is some plaintext to encrypt using SIV-AES";
        let sealed = seal(&key, &[&first, &second, &nonce], plain).unwrap();
        assert_eq!(
            hex::encode(&sealed),
            "7bdb6e3b432667eb06f4d14bff2fbd0fcb900f2fddbe404326601965c889bf17dba77ceb094fa663b7a3f748ba8af829ea64ad544a27\
             2e9c485b62a3fd5c0d"
        );
    }

    #[test]
    fn a_changed_bit_is_noticed() {
        let key = [7; 32];
        let mut sealed = seal(&key, &[b"header", b"nonce"], b"").unwrap();
        assert_eq!(open(&key, &[b"header", b"nonce"], &sealed), Some(Vec::new()));
        assert_eq!(open(&key, &[b"Header", b"nonce"], &sealed), None);
        assert_eq!(open(&[8; 32], &[b"header", b"nonce"], &sealed), None);
        sealed[3] ^= 1;
        assert_eq!(open(&key, &[b"header", b"nonce"], &sealed), None);
        assert_eq!(open(&key, &[b"header", b"nonce"], b"short"), None);
    }
}
