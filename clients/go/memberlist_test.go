package carillon

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

func TestMemberList(t *testing.T) {
	t.Parallel()
	l := NewMemberList("chat.a")
	member := func(users ...string) (members []Member) {
		for _, user := range users {
			members = append(members, Member{UserID: user, Connections: 1})
		}
		return members
	}
	for i, step := range []struct {
		event                 Event
		joined, left, members string
		total                 int
		current, whole        bool
	}{
		{Members{Channel: "chat.b", Members: member("zoe"), Total: 1}, "", "", "", 0, false, false},
		{Members{Channel: "chat.a", Members: member("bob", "alice"), Total: 2}, "alice bob", "", "alice bob", 2, true, true},
		{PresenceChanged{Channel: "chat.b", Left: []string{"bob"}}, "", "", "alice bob", 2, true, true},
		{PresenceChanged{Channel: "chat.a", Joined: member("eve", "bob", "carol"), Left: []string{"alice", "dave"}, Total: 3}, "carol eve", "alice", "bob carol eve", 3, true, true},
		{Disconnected{}, "", "", "bob carol eve", 3, false, true},
		{Subscribed{Channel: "chat.a"}, "", "", "bob carol eve", 3, false, true},
		{Members{Channel: "chat.a", Members: member("bob", "dave"), Total: 2}, "dave", "carol eve", "bob dave", 2, true, true},
		{Refused{Channel: "chat.b"}, "", "", "bob dave", 2, true, true},
		{PresenceRefused{Channel: "chat.b"}, "", "", "bob dave", 2, true, true},
		{Refused{Channel: "chat.a"}, "", "", "bob dave", 2, false, true},
		{Members{Channel: "chat.a", Members: member("bob", "dave"), Total: 2}, "", "", "bob dave", 2, true, true},
		{PresenceRefused{Channel: "chat.a"}, "", "", "bob dave", 2, false, true},
		{Members{Channel: "chat.a", Members: member("bob", "dave"), Total: 2}, "", "", "bob dave", 2, true, true},
		{Reset{Channel: "chat.a"}, "", "", "bob dave", 2, false, true},
		{Members{Channel: "chat.a", Members: member("bob", "dave"), Total: 2}, "", "", "bob dave", 2, true, true},
		{PresenceChanged{Channel: "chat.a", Joined: member("eve"), Left: []string{"dave"}, Total: 500, Truncated: true}, "", "dave", "bob", 500, true, false},
		{PresenceChanged{Channel: "chat.a", Joined: member("fay"), Total: 501}, "", "", "bob", 501, true, false},
		{Members{Channel: "chat.a", Members: member("eve", "gil"), Total: 501, Truncated: true}, "eve gil", "bob", "eve gil", 501, true, false},
		{Members{Channel: "chat.a", Members: member("gil", "hal"), Total: 2}, "hal", "eve", "gil hal", 2, true, true},
	} {
		joined, left := l.Apply(step.event)
		got := fmt.Sprint(usersOf(joined), ", ", strings.Join(left, " "), ", ", usersOf(l.Members()), ", ", l.Total(), l.Current(), l.Whole())
		want := fmt.Sprint(step.joined, ", ", step.left, ", ", step.members, ", ", step.total, step.current, step.whole)
		if got != want {
			t.Errorf("step %d, %T: %s, want %s", i, step.event, got, want)
		}
	}
}

// A list that says that it is right is, whatever happened, and what it told of who came
// and went adds up to it.
func TestMemberListAgainstTheTruth(t *testing.T) {
	t.Parallel()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	truth, touched, told := map[string]bool{}, map[string]bool{}, map[string]bool{}
	l := NewMemberList("chat.a")
	list := func() (members []Member) {
		for _, user := range slices.Sorted(maps.Keys(truth)) {
			members = append(members, Member{UserID: user})
		}
		return members
	}
	apply := func(e Event) {
		joined, left := l.Apply(e)
		for _, m := range joined {
			if told[m.UserID] {
				t.Fatalf("%s joined twice", m.UserID)
			}
			told[m.UserID] = true
		}
		for _, user := range left {
			if !told[user] {
				t.Fatalf("%s left, who never joined", user)
			}
			delete(told, user)
		}
	}
	wholes := 0
	for range 20_000 {
		for range random.IntN(4) {
			user := fmt.Sprint("u", random.IntN(30))
			if truth[user] = !truth[user]; !truth[user] {
				delete(truth, user)
			}
			touched[user] = true
		}
		switch n := random.IntN(20); {
		case n == 0:
			apply(Disconnected{})
			continue
		case n == 1 || !l.Current():
			members := list()
			most := random.IntN(60)
			apply(Members{Channel: "chat.a", Members: members[:min(most, len(members))], Total: len(members), Truncated: most < len(members)})
		default:
			push := PresenceChanged{Channel: "chat.a", Total: len(truth)}
			for user := range touched {
				switch {
				case len(push.Joined)+len(push.Left) == 9:
					push.Truncated = true
				case truth[user]:
					push.Joined = append(push.Joined, Member{UserID: user})
				default:
					push.Left = append(push.Left, user)
				}
			}
			apply(push)
		}
		clear(touched)
		if got := usersOf(l.Members()); l.Whole() && got != usersOf(list()) {
			t.Fatalf("%s, want %s", got, usersOf(list()))
		} else if l.Whole() {
			wholes++
		}
		if l.Total() != len(truth) || len(told) != len(l.Members()) {
			t.Fatalf("total %d, want %d; told of %d, listed %d", l.Total(), len(truth), len(told), len(l.Members()))
		}
	}
	if wholes < 1000 {
		t.Errorf("the list was whole %d times", wholes)
	}
}
