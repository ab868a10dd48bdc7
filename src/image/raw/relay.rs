//! Two sides that work at once on a fixed set of buffers: one fills what the other empties.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use crate::disk::block::AlignedBuffer;

/// Of one buffer.
const PIECE_BYTES: usize = 2 << 20;
/// One being filled, one being emptied, one between them.
const PIECES: usize = 3;

/// A part of an image, in memory that O_DIRECT takes.
pub(super) struct Piece {
    pub(super) buffer: AlignedBuffer,
    /// In the image.
    pub(super) offset: u64,
    /// Of what the buffer holds.
    pub(super) length: usize,
}

impl Piece {
    pub(super) fn bytes(&self) -> &[u8] {
        self.buffer.as_slice().get(..self.length).unwrap_or_default()
    }
}

/// Fills pieces here, until `fill` says that there is no more, and empties them on another thread. If both fail, the
/// emptying side's reason is the one.
pub(super) fn relay<E: Send>(
    fill: impl FnMut(&mut Piece) -> Result<bool, E>,
    mut empty: impl FnMut(&mut Piece) -> Result<(), E> + Send,
) -> Result<(), E> {
    let (full, filled) = sync_channel(PIECES);
    let (spent, free) = sync_channel(PIECES);
    for _ in 0..PIECES {
        let piece = Piece { buffer: AlignedBuffer::zeroed(PIECE_BYTES), offset: 0, length: 0 };
        // there is room for all of them
        let _ = spent.send(piece);
    }
    thread::scope(|scope| {
        let emptying = scope.spawn(move || {
            for mut piece in filled {
                empty(&mut piece)?;
                // nobody fills any more: what is on its way is emptied all the same
                let _ = spent.send(piece);
            }
            Ok(())
        });
        let filling = fill_all(fill, full, &free);
        match emptying.join() {
            Ok(emptied) => emptied.and(filling),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

/// A closed channel says that the other side has failed, and why is its to tell.
fn fill_all<E>(
    mut fill: impl FnMut(&mut Piece) -> Result<bool, E>,
    full: SyncSender<Piece>,
    free: &Receiver<Piece>,
) -> Result<(), E> {
    while let Ok(mut piece) = free.recv() {
        if !fill(&mut piece)? || full.send(piece).is_err() {
            break;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_come_in_order_and_all_of_them() {
        let (mut next, mut seen) = (0_u64, Vec::new());
        let relayed = relay(
            |piece| {
                piece.offset = next;
                piece.length = 1;
                piece.buffer.as_mut_slice()[0] = next as u8;
                next += 1;
                Ok::<bool, ()>(next <= 50)
            },
            |piece| {
                seen.push((piece.offset, piece.bytes().to_vec()));
                Ok(())
            },
        );
        assert_eq!(relayed, Ok(()));
        assert_eq!(seen, (0..50).map(|n| (n, vec![n as u8])).collect::<Vec<_>>());
    }

    #[test]
    fn whoever_fails_stops_both() {
        let mut filled = 0;
        let endless = |filled: &mut u32| {
            *filled += 1;
            Ok(true)
        };
        let emptying = relay(|_| endless(&mut filled), |piece| if piece.offset == 0 { Err("full") } else { Ok(()) });
        assert_eq!(emptying, Err("full"));
        assert!(filled <= PIECES as u32);
        let mut left = 2;
        let filling = relay(
            |_| {
                left -= 1;
                if left > 0 { Ok(true) } else { Err("torn") }
            },
            |_| Ok(()),
        );
        assert_eq!(filling, Err("torn"));
    }
}
