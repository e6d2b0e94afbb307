package e2e_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	carillon "github.com/carillon-rt/carillon/clients/go"
	clientv1 "github.com/carillon-rt/carillon/gen/carillon/client/v1"
)

// listed waits until a list that a follower's events keep is right, whole and of these
// users.
func listed(t *testing.T, f *follower, list *carillon.MemberList, users ...string) {
	t.Helper()
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	for {
		var names []string
		for _, m := range list.Members() {
			names = append(names, m.UserID)
		}
		err := equal(names, users)
		if err == nil && list.Current() && list.Whole() {
			return
		}
		select {
		case event := <-f.events:
			list.Apply(event)
		case err := <-f.ended:
			f.ended <- err
			t.Fatalf("the session ended: %v", err)
		case <-deadline.C:
			t.Fatalf("%v, current %t, whole %t", err, list.Current(), list.Whole())
		}
	}
}

// A session knows who is in its channels, with what they say of themselves, also when the
// server has been away; and it follows a channel too whose members nobody tells.
func TestSessionKnowsTheMembers(t *testing.T) {
	t.Parallel()
	dir, address := t.TempDir(), reserve(t)
	arguments := []string{"--edge.listen=" + address}
	server, s := startDev(t, dir, arguments...)
	const room, bare = "chat.members", "cursor.bare"
	f := follow(t, carillon.SessionOptions{
		URLs: []string{"ws://" + address + "/v1/ws"}, Channels: []string{room, bare}, Presence: []string{room, bare}, Info: `{"name": "Alice"}`,
		Token: func(context.Context) (string, error) { return s.token(t, "user", "alice"), nil },
	})
	refused, before := await(t, f, func(e carillon.PresenceRefused) bool { return true })
	if refused.Channel != bare || refused.Err.GetReason() != clientv1.ErrorReason_ERROR_REASON_PRESENCE_DISABLED {
		t.Errorf("%+v", refused)
	}
	_, more := await(t, f, func(e carillon.Subscribed) bool { return e.Channel == bare })
	list := carillon.NewMemberList(room)
	for _, event := range append(before, more...) {
		list.Apply(event)
	}
	listed(t, f, list, "alice")
	if got := list.Members()[0]; got.Info != `{"name":"Alice"}` || got.Connections != 1 || time.Since(got.Since).Abs() > patience {
		t.Errorf("%+v", got)
	}
	bob := s.connect(t, address, "bob", room)
	listed(t, f, list, "alice", "bob")
	s.connect(t, address, "carol", room)
	listed(t, f, list, "alice", "bob", "carol")
	if err := bob.Close(); err != nil {
		t.Fatal(err)
	}
	listed(t, f, list, "alice", "carol")

	server.kill(t)
	await(t, f, func(e carillon.Disconnected) bool { list.Apply(e); return true })
	if got := fmt.Sprint(list.Total(), list.Current()); got != "2 false" {
		t.Errorf("without a connection: %s", got)
	}
	startDev(t, dir, arguments...)
	listed(t, f, list, "alice") // carol's client does not come back
}
