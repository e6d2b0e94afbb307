package capacity

import "time"

// Measured are costs on two cores, as docs/performance.md has them, with where each is
// from.
var Measured = Costs{
	ConnectionBytes: 5.7 * 1024,             // idle, less the channel
	ChannelBytes:    2.6 * 1024,             // growth-channels: KiB a channel
	EdgeConnect:     295 * time.Microsecond, // roles
	EdgeMessage:     83 * time.Microsecond,  // roles
	Delivery:        6300 * time.Nanosecond, // roles
	PresenceConnect: 81 * time.Microsecond,  // roles
	Join:            83 * time.Microsecond,  // make presence
	MemberBytes:     390,                    // make presence
	Publish:         188 * time.Microsecond, // roles
	Store:           159 * time.Microsecond, // roles
	Replica:         40 * time.Microsecond,  // not measured: less than half of Store, which takes a request and answers it too
	Send:            5 * time.Microsecond,   // not measured: a message to one more client connection
	InterestBytes:   700,                    // make capacity
	Interest:        5 * time.Microsecond,   // make capacity
	Head:            1100 * time.Nanosecond, // ADR 0015
	New:             9 * time.Microsecond,   // ADR 0015
}

// Usual is a load to plan with: an inbox and a room of a thousand each.
func Usual(connections float64) Load {
	return Load{
		Connections: connections, RoomSize: 1000, InboxEvery: time.Minute, RoomEvery: 10 * time.Second, StayFor: 20 * time.Minute, MessageBytes: 500,
	}
}

// Eight are machines of 8 cores and 32 GiB, half busy, that store everything three
// times.
var Eight = Machines{
	Cores: 8, Bytes: 32 << 30, Busy: 0.5, Replicas: 3, PartitionRate: 10_000, EdgeConnections: 100_000, HeadsEvery: 2 * time.Second,
}
