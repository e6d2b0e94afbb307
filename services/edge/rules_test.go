package edge

import (
	"fmt"
	"testing"
	"time"

	"github.com/carillon-rt/carillon/services/edge/frame"
	"github.com/carillon-rt/carillon/services/internal/channel"
	"github.com/carillon-rt/carillon/services/internal/fault"
	"github.com/carillon-rt/carillon/services/internal/message"
)

func TestUnresolved(t *testing.T) {
	t.Parallel()
	now := time.Unix(1000, 0)
	unknown := fault.Unavailable(fault.StoreUnavailable, nil, "unknown")
	var u unresolved
	admitted := func(name channel.Name, id string) bool { return u.admit(name, id, now) == nil }
	attempt := func(name channel.Name, id string, err error) {
		t.Helper()
		if !admitted(name, id) {
			t.Fatalf("%s %s was not admitted", name, id)
		}
		u.settle(name, id, err, now)
	}
	attempt("chat.a", "1", nil)
	attempt("chat.a", "1", fault.New(fault.PolicyDenied, "", "no")) // final: nothing to wait for
	attempt("chat.a", "2", unknown)
	if admitted("chat.a", "3") || admitted("chat.a", "4") || !admitted("chat.a", "") || !admitted("chat.b", "3") {
		t.Error("after 2")
	}
	attempt("chat.a", "2", unknown)
	now = now.Add(unresolvedTime - 1)
	attempt("chat.a", "2", nil)
	if admitted("chat.a", "4") || admitted("chat.a", "5") {
		t.Error("3 was before 4")
	}
	attempt("chat.a", "3", fault.New(fault.MessageIDReused, "", "final"))
	attempt("chat.a", "4", nil)
	now = now.Add(unresolvedTime - 1)
	if admitted("chat.a", "6") {
		t.Error("5 was before 6")
	}
	now = now.Add(1)
	attempt("chat.a", "6", nil)
	if u.count != 0 || len(u.channels) != 0 {
		t.Errorf("left: %+v", u)
	}
}

func TestUnresolvedIsBounded(t *testing.T) {
	t.Parallel()
	now := time.Unix(1000, 0)
	unknown := fault.Unavailable(fault.AuthorizationUnavailable, nil, "unknown")
	var u unresolved
	for i := range 10 * maxUnresolved {
		for _, name := range []channel.Name{"chat.a", channel.Name(fmt.Sprint("chat.c", i))} {
			if id := fmt.Sprint(i); u.admit(name, id, now) == nil {
				u.settle(name, id, unknown, now)
			}
		}
	}
	stored := 0
	for _, c := range u.channels {
		stored += len(c.ids)
	}
	if stored > maxUnresolved || u.count != stored {
		t.Errorf("%d ids are remembered, %d counted", stored, u.count)
	}
	if u.admit("chat.new", "1", now) == nil || u.admit("chat.new", "", now) != nil || u.admit("chat.a", "0", now) != nil {
		t.Error("where there is no room, only the first of those that wait may be tried")
	}
	if err := u.admit("chat.new", "1", now.Add(unresolvedTime)); err != nil {
		t.Error("after a while:", err)
	}
}

func TestPositionDue(t *testing.T) {
	t.Parallel()
	bounds := message.Bounds{First: 101, Last: 200} // a quarter is 25
	for _, tt := range []struct {
		name     string
		told, at message.Offset
		rested   bool
		want     bool
	}{
		{"nothing new", 200, 200, true, false},
		{"a little behind", 180, 200, true, false},
		{"a quarter behind", 175, 200, true, false},
		{"more", 174, 200, true, true},
		{"more, told just now", 174, 200, false, false},
		{"in the oldest quarter", 124, 200, false, true},
		{"before it", 125, 200, false, false},
		{"trimmed", 50, 200, false, true},
		{"trimmed, though the topic is no further", 50, 50, true, false},
	} {
		if got := positionDue(tt.told, tt.at, bounds, tt.rested); got != tt.want {
			t.Errorf("%s: %v", tt.name, got)
		}
	}
	empty := message.Bounds{First: 201, Last: 200} // everything has expired
	if !positionDue(199, 200, empty, false) || positionDue(200, 200, empty, true) {
		t.Error("of an empty stream only the head can be resumed from")
	}
}

func TestBehind(t *testing.T) {
	t.Parallel()
	topic := &topic{name: "chat.a", position: message.Position{Epoch: "e", Offset: 99}}
	now := time.Unix(1000, 0)
	at := func(offset message.Offset) frame.Event {
		return frame.Message{Message: &message.Message{Offset: offset, Time: now}}
	}
	brief := func(offset message.Offset) frame.Event {
		return frame.Message{Message: &message.Message{Offset: offset, Time: now, TTL: time.Second}}
	}
	gap := func(to message.Offset, reason fault.Reason) frame.Event { return frame.Gap{To: to, Reason: reason} }
	offsetOf := func(event frame.Event) message.Offset {
		if m, ok := event.(frame.Message); ok {
			return m.Offset
		}
		return event.(frame.Gap).To
	}
	for _, tt := range []struct {
		name         string
		missed       []frame.Event
		latest, drop string
	}{
		{"one", []frame.Event{at(12)}, "12", "SLOW_CONSUMER 11-12"},
		{"some", []frame.Event{at(12), at(15), at(19)}, "SLOW_CONSUMER 11-18 19", "SLOW_CONSUMER 11-19"},
		{"the latest has expired", []frame.Event{at(12), brief(19)}, "SLOW_CONSUMER 11-19", "SLOW_CONSUMER 11-19"},
		{"one that has expired", []frame.Event{brief(19)}, "", "SLOW_CONSUMER 11-19"},
		{"a purge", []frame.Event{at(12), gap(14, fault.ChannelPurged)}, "CHANNEL_PURGED 11-14", "CHANNEL_PURGED 11-14"},
		{"a purge, then one", []frame.Event{at(12), gap(14, fault.ChannelPurged), at(16)}, "CHANNEL_PURGED 11-14 16", "CHANNEL_PURGED 11-14 SLOW_CONSUMER 15-16"},
		{"a purge, then some", []frame.Event{gap(14, fault.ChannelPurged), at(16), at(18)}, "CHANNEL_PURGED 11-14 SLOW_CONSUMER 15-17 18", "CHANNEL_PURGED 11-14 SLOW_CONSUMER 15-18"},
		{"a gap", []frame.Event{gap(14, fault.MessagesMissed)}, "SLOW_CONSUMER 11-14", "SLOW_CONSUMER 11-14"},
		{"a gap, then one", []frame.Event{gap(14, fault.MessagesMissed), at(15)}, "SLOW_CONSUMER 11-14 15", "SLOW_CONSUMER 11-15"},
	} {
		for policy, want := range map[slowPolicy]string{slowLatest: tt.latest, slowDrop: tt.drop} {
			b := behind{from: 11}
			for _, event := range tt.missed {
				b.add(event, offsetOf(event))
			}
			got := ""
			for _, event := range b.told(topic, policy, now.Add(time.Minute)) {
				if g, ok := event.(frame.Gap); ok {
					got += fmt.Sprintf(" %s %d-%d", g.Reason, g.From, g.To)
				} else {
					got += fmt.Sprint(" ", offsetOf(event))
				}
			}
			if want != "" {
				want = " " + want
			}
			if got != want {
				t.Errorf("%s, policy %d: got%s, want%s", tt.name, policy, got, want)
			}
		}
	}
}
