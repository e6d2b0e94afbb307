package message

import "github.com/carillon-rt/carillon/services/internal/channel"

// EpochStart says at which offset an epoch begins.
type EpochStart struct {
	Epoch Epoch  `json:"epoch"`
	First Offset `json:"first"`
}

// Bounds say which positions of a channel can be resumed from, as known at one
// moment. The zero Bounds are those of an ephemeral channel. They are never modified.
type Bounds struct {
	// Epochs are all there have been, in order; the last is the current one.
	Epochs []EpochStart
	// First is the offset of the oldest message that is still kept, of any channel
	// stored together with this one; one more than Last if there is none.
	First Offset
	// Last is the offset of the newest message of any such channel.
	Last Offset
}

// Head is the position at or after the channel's last message.
func (b Bounds) Head() Position { return Position{Epoch: b.Epoch(), Offset: b.Last} }

// Epoch is the current epoch; empty if ephemeral.
func (b Bounds) Epoch() Epoch {
	if len(b.Epochs) == 0 {
		return ""
	}
	return b.Epochs[len(b.Epochs)-1].Epoch
}

// Recoverable tells whether everything after a position is still kept: its epoch is
// current, or ended after the position; the position is not in the future; and
// nothing after it has been trimmed.
func (b Bounds) Recoverable(since Position) bool {
	return b.Knows(since) && since.Offset <= b.Last && since.Offset+1 >= b.First
}

// Knows tells whether a position is one that the channel has had or may come to have:
// its epoch is current, or ended after it.
func (b Bounds) Knows(p Position) bool {
	for i, start := range b.Epochs {
		if start.Epoch == p.Epoch {
			return i == len(b.Epochs)-1 || p.Offset < b.Epochs[i+1].First
		}
	}
	return false
}

// Page is a part of a channel's history, in order, with purges and with messages whose
// TTL has passed.
type Page struct {
	Messages []*Message
	// Reached is up to which offset the page has read; it goes on from there. What could
	// not be decoded is not in Messages.
	Reached Offset
	// Pending is how many more followed when the page was read, purges and expired ones
	// included. It may be too low where a replica answered that was behind, but is 0 only
	// if nothing followed.
	Pending int
	// Trimmed, unless 0, is up to which offset messages after the one that was asked for
	// may have gone before they could be read. Messages has none of those.
	Trimmed Offset
}

// Lasts is what is known of where the channels of a partition end.
type Lasts struct {
	// Offsets are those of the last messages after the offset that was asked from. It may
	// tell of channels that nobody asked about.
	Offsets map[channel.Name]Offset
	// UpTo is the offset that the answer covers: of what follows it something may be
	// missing.
	UpTo Offset
}
