//! Packets of SFTP version 3 (draft-ietf-secsh-filexfer-02), and OpenSSH's extensions (its PROTOCOL, section 4).
//!
//! Names and handles are bytes, as on the wire: a name need not be UTF-8, and a handle never is text.

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};

pub(super) const INIT: u8 = 1;
pub(super) const VERSION: u8 = 2;
pub(super) const OPEN: u8 = 3;
pub(super) const CLOSE: u8 = 4;
pub(super) const READ: u8 = 5;
pub(super) const WRITE: u8 = 6;
pub(super) const LSTAT: u8 = 7;
pub(super) const FSTAT: u8 = 8;
pub(super) const SETSTAT: u8 = 9;
pub(super) const FSETSTAT: u8 = 10;
pub(super) const OPENDIR: u8 = 11;
pub(super) const READDIR: u8 = 12;
pub(super) const REMOVE: u8 = 13;
pub(super) const MKDIR: u8 = 14;
pub(super) const RMDIR: u8 = 15;
pub(super) const REALPATH: u8 = 16;
pub(super) const STAT: u8 = 17;
pub(super) const RENAME: u8 = 18;
pub(super) const READLINK: u8 = 19;
pub(super) const SYMLINK: u8 = 20;
pub(super) const STATUS: u8 = 101;
pub(super) const HANDLE: u8 = 102;
pub(super) const DATA: u8 = 103;
pub(super) const NAME: u8 = 104;
pub(super) const ATTRS: u8 = 105;
pub(super) const EXTENDED: u8 = 200;
pub(super) const EXTENDED_REPLY: u8 = 201;

/// Flags of OPEN.
pub(super) const OPEN_READ: u32 = 1;
pub(super) const OPEN_WRITE: u32 = 2;
pub(super) const OPEN_CREATE: u32 = 8;
pub(super) const OPEN_EXCLUSIVE: u32 = 32;

const ATTR_SIZE: u32 = 1;
const ATTR_OWNER: u32 = 2;
const ATTR_MODE: u32 = 4;
const ATTR_TIMES: u32 = 8;
const ATTR_EXTENDED: u32 = 0x8000_0000;

/// A packet, or a part of it, that ends too early.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Malformed;

/// Attributes of a file, as far as they are known or to be set.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct WireAttrs {
    pub(crate) size: Option<u64>,
    pub(crate) owner: Option<(u32, u32)>,
    pub(crate) mode: Option<u32>,
    /// When it was read and changed last, in seconds since 1970.
    pub(crate) times: Option<(u32, u32)>,
}

/// Builds a packet: type, then whatever is put, then the length in front.
#[derive(Debug)]
pub(super) struct Packet(BytesMut);

impl Packet {
    /// Begins a packet with a request's number.
    pub(super) fn new(kind: u8, id: u32) -> Self {
        let mut buffer = BytesMut::with_capacity(128);
        buffer.put_u32(0);
        buffer.put_u8(kind);
        buffer.put_u32(id);
        Self(buffer)
    }

    pub(super) fn u32(mut self, value: u32) -> Self {
        self.0.put_u32(value);
        self
    }

    pub(super) fn u64(mut self, value: u64) -> Self {
        self.0.put_u64(value);
        self
    }

    pub(super) fn string(mut self, value: &[u8]) -> Self {
        self.0.put_u32(u32::try_from(value.len()).unwrap_or(u32::MAX));
        self.0.put_slice(value);
        self
    }

    pub(super) fn attrs(mut self, attrs: &WireAttrs) -> Self {
        let flag = |set, flag| if set { flag } else { 0 };
        self.0.put_u32(
            flag(attrs.size.is_some(), ATTR_SIZE)
                | flag(attrs.owner.is_some(), ATTR_OWNER)
                | flag(attrs.mode.is_some(), ATTR_MODE)
                | flag(attrs.times.is_some(), ATTR_TIMES),
        );
        if let Some(size) = attrs.size {
            self.0.put_u64(size);
        }
        if let Some((uid, gid)) = attrs.owner {
            self.0.put_u32(uid);
            self.0.put_u32(gid);
        }
        if let Some(mode) = attrs.mode {
            self.0.put_u32(mode);
        }
        if let Some((read, changed)) = attrs.times {
            self.0.put_u32(read);
            self.0.put_u32(changed);
        }
        self
    }

    /// Returns the bytes, of which `behind` more are sent apart.
    pub(super) fn finish(mut self, behind: usize) -> Bytes {
        let length = u32::try_from(self.0.len() - 4 + behind).unwrap_or(u32::MAX);
        self.0[..4].copy_from_slice(&length.to_be_bytes());
        self.0.freeze()
    }
}

/// Takes a packet apart.
#[derive(Debug)]
pub(super) struct Reader(pub(super) Bytes);

impl Reader {
    pub(super) fn u8(&mut self) -> Result<u8, Malformed> {
        self.0.try_get_u8().map_err(|_| Malformed)
    }

    pub(super) fn u32(&mut self) -> Result<u32, Malformed> {
        self.0.try_get_u32().map_err(|_| Malformed)
    }

    pub(super) fn u64(&mut self) -> Result<u64, Malformed> {
        self.0.try_get_u64().map_err(|_| Malformed)
    }

    pub(super) fn string(&mut self) -> Result<Bytes, Malformed> {
        let length = self.u32()? as usize;
        if self.0.remaining() < length {
            return Err(Malformed);
        }
        Ok(self.0.split_to(length))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn attrs(&mut self) -> Result<WireAttrs, Malformed> {
        let flags = self.u32()?;
        let mut attrs = WireAttrs::default();
        if flags & ATTR_SIZE != 0 {
            attrs.size = Some(self.u64()?);
        }
        if flags & ATTR_OWNER != 0 {
            attrs.owner = Some((self.u32()?, self.u32()?));
        }
        if flags & ATTR_MODE != 0 {
            attrs.mode = Some(self.u32()?);
        }
        if flags & ATTR_TIMES != 0 {
            attrs.times = Some((self.u32()?, self.u32()?));
        }
        if flags & ATTR_EXTENDED != 0 {
            for _ in 0..self.u32()? {
                self.string()?;
                self.string()?;
            }
        }
        Ok(attrs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn attributes_survive_the_wire() {
        let attrs = WireAttrs {
            size: Some(1 << 40),
            owner: Some((1, 2)),
            mode: Some(0o100_644),
            times: Some((3, 4)),
        };
        for attrs in [attrs, WireAttrs::default(), WireAttrs { owner: None, ..attrs }] {
            let mut packet =
                Reader(Packet::new(SETSTAT, 7).string(b"a\xff").attrs(&attrs).finish(0));
            assert_eq!(packet.u32().unwrap() as usize, packet.0.len());
            assert_eq!((packet.u8(), packet.u32()), (Ok(SETSTAT), Ok(7)));
            assert_eq!(&packet.string().unwrap()[..], b"a\xff");
            assert_eq!(packet.attrs(), Ok(attrs));
            assert!(packet.is_empty());
        }
    }

    proptest! {
        #[test]
        fn whatever_a_server_sends_is_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let mut reader = Reader(bytes.clone().into());
            let _ = reader.attrs();
            let mut reader = Reader(bytes.into());
            while reader.string().is_ok_and(|text| !text.is_empty()) {}
        }
    }
}
