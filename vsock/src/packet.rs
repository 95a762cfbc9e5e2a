//! The header of every packet (virtio 1.3, 5.10.6).

/// Bytes of it.
pub const HEADER: usize = 44;
/// VIRTIO_VSOCK_TYPE_STREAM.
pub const STREAM: u16 = 1;

/// What a packet is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum Op {
    /// Asks for a connection.
    Request = 1,
    /// Accepts one.
    Response = 2,
    /// There is no such connection, or no longer.
    Reset = 3,
    /// Its sender sends, or takes, no more: [`NO_RECEIVE`], [`NO_SEND`].
    Shutdown = 4,
    /// Bytes.
    Data = 5,
    /// Tells of room.
    CreditUpdate = 6,
    /// Asks for that.
    CreditRequest = 7,
}

impl Op {
    /// The operation of that number.
    pub fn new(number: u16) -> Option<Self> {
        Some(match number {
            1 => Self::Request,
            2 => Self::Response,
            3 => Self::Reset,
            4 => Self::Shutdown,
            5 => Self::Data,
            6 => Self::CreditUpdate,
            7 => Self::CreditRequest,
            _ => return None,
        })
    }
}

/// VIRTIO_VSOCK_SHUTDOWN_F_RECEIVE: the sender takes no more.
pub const NO_RECEIVE: u32 = 1;
/// VIRTIO_VSOCK_SHUTDOWN_F_SEND: the sender sends no more.
pub const NO_SEND: u32 = 2;
/// Neither.
pub const NOTHING: u32 = NO_RECEIVE | NO_SEND;

/// `struct virtio_vsock_hdr`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Header {
    /// Address of the sender.
    pub src_cid: u64,
    /// Address of the receiver.
    pub dst_cid: u64,
    /// Port of the sender.
    pub src_port: u32,
    /// Port of the receiver.
    pub dst_port: u32,
    /// Bytes after the header.
    pub len: u32,
    /// Kind of the socket: [`STREAM`].
    pub kind: u16,
    /// An [`Op`].
    pub op: u16,
    /// Of a shutdown.
    pub flags: u32,
    /// Bytes that the sender has room for, on this connection.
    pub buf_alloc: u32,
    /// Bytes that it has taken out of there so far, modulo 2³².
    pub fwd_cnt: u32,
}

impl Header {
    /// From its bytes.
    pub fn from_bytes(bytes: &[u8; HEADER]) -> Self {
        let word = |at: usize| {
            let mut word = [0; 4];
            word.copy_from_slice(&bytes[at..at + 4]);
            u32::from_le_bytes(word)
        };
        let long = |at: usize| u64::from(word(at)) | u64::from(word(at + 4)) << 32;
        let kind_and_op = word(28);
        Self {
            src_cid: long(0),
            dst_cid: long(8),
            src_port: word(16),
            dst_port: word(20),
            len: word(24),
            kind: kind_and_op as u16,
            op: (kind_and_op >> 16) as u16,
            flags: word(32),
            buf_alloc: word(36),
            fwd_cnt: word(40),
        }
    }

    /// As bytes.
    pub fn to_bytes(&self) -> [u8; HEADER] {
        let mut bytes = [0; HEADER];
        let mut at = 0;
        let mut put = |field: &[u8]| {
            bytes[at..at + field.len()].copy_from_slice(field);
            at += field.len();
        };
        put(&self.src_cid.to_le_bytes());
        put(&self.dst_cid.to_le_bytes());
        for word in [self.src_port, self.dst_port, self.len] {
            put(&word.to_le_bytes());
        }
        put(&self.kind.to_le_bytes());
        put(&self.op.to_le_bytes());
        for word in [self.flags, self.buf_alloc, self.fwd_cnt] {
            put(&word.to_le_bytes());
        }
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_is_laid_out_as_the_standard_has_it() {
        let header = Header {
            src_cid: 0x0102_0304_0506_0708,
            dst_cid: 2,
            src_port: 0x1112_1314,
            dst_port: 0x2122_2324,
            len: 0x3132_3334,
            kind: 0x4142,
            op: 0x5152,
            flags: 0x6162_6364,
            buf_alloc: 0x7172_7374,
            fwd_cnt: 0x8182_8384,
        };
        let bytes = header.to_bytes();
        assert_eq!(bytes[..8], [8, 7, 6, 5, 4, 3, 2, 1]);
        assert_eq!(bytes[16..20], [0x14, 0x13, 0x12, 0x11]);
        assert_eq!(bytes[28..32], [0x42, 0x41, 0x52, 0x51]);
        assert_eq!(bytes[40..], [0x84, 0x83, 0x82, 0x81]);
        assert_eq!(Header::from_bytes(&bytes), header);
    }
}
