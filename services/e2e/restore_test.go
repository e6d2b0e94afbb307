package e2e_test

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/nats-io/nats.go"

	clientv1 "github.com/carillon-rt/carillon/gen/carillon/client/v1"
)

// backup is a copy of a stream as nats-server gives it: with its configuration.
type backup struct {
	description struct {
		Config json.RawMessage `json:"config"`
		State  json.RawMessage `json:"state"`
	}
	chunks [][]byte
}

const restoredStream = "CARILLON_chat_0"

func dialNATS(t testing.TB, address string) *nats.Conn {
	t.Helper()
	nc, err := nats.Connect("nats://" + address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	return nc
}

// ask calls the API of JetStream.
func ask(t testing.TB, nc *nats.Conn, subject string, request, answer any) {
	t.Helper()
	reply, err := nc.Request(subject, []byte(encode(t, request)), patience)
	if err != nil {
		t.Fatalf("%s: %v", subject, err)
	}
	wantDone(t, subject, reply.Data)
	decode(t, string(reply.Data), answer)
}

// wantDone fails where the API tells of an error.
func wantDone(t testing.TB, subject string, answer []byte) {
	t.Helper()
	var refused struct{ Error *struct{ Description string } }
	if decode(t, string(answer), &refused); refused.Error != nil {
		t.Fatalf("%s: %s", subject, refused.Error.Description)
	}
}

// backUp takes a copy of the stream.
func backUp(t testing.TB, address string) backup {
	t.Helper()
	nc := dialNATS(t, address)
	inbox := nats.NewInbox()
	sub, err := nc.SubscribeSync(inbox)
	if err != nil {
		t.Fatal(err)
	}
	var b backup
	ask(t, nc, "$JS.API.STREAM.SNAPSHOT."+restoredStream, map[string]any{"deliver_subject": inbox, "no_consumers": true}, &b.description)
	for {
		chunk, err := sub.NextMsg(patience)
		if err != nil {
			t.Fatalf("the copy: %v", err)
		}
		if len(chunk.Data) == 0 { // its end
			return b
		}
		b.chunks = append(b.chunks, chunk.Data)
		if chunk.Reply == "" {
			continue // a small copy is sent without waiting
		}
		if err := chunk.Respond(nil); err != nil {
			t.Fatal(err)
		}
	}
}

// restore puts a copy back into a server that has no such stream.
func (b backup) restore(t testing.TB, address string) {
	t.Helper()
	nc := dialNATS(t, address)
	subject := "$JS.API.STREAM.RESTORE." + restoredStream
	var begun struct {
		DeliverSubject string `json:"deliver_subject"`
	}
	ask(t, nc, subject, b.description, &begun)
	for _, chunk := range b.chunks {
		if _, err := nc.Request(begun.DeliverSubject, chunk, patience); err != nil {
			t.Fatalf("%s: %v", subject, err)
		}
	}
	reply, err := nc.Request(begun.DeliverSubject, nil, patience)
	if err != nil {
		t.Fatalf("%s: %v", subject, err)
	}
	wantDone(t, subject, reply.Data)
}

// startRoles starts one process of each role, and waits until they are ready.
func (c *cluster) startRoles(t testing.TB) *system {
	t.Helper()
	presence, publish := c.start(t, "presence"), c.start(t, "publish")
	edge := c.start(t, "edge", presences(presence.address(t, "presence")))
	return c.system(t, presence.ready(t), publish.ready(t), edge.ready(t))
}

// resume comes back with a position.
func (c client) resume(t testing.TB, channel, epoch string, offset uint64) *clientv1.SubscribedEvent {
	t.Helper()
	subscribed, err := c.Resume(t.Context(), channel, epoch, offset)
	if err != nil {
		t.Fatalf("resume %s from %d: %v", channel, offset, err)
	}
	return subscribed
}

// All is lost and restored from a backup while nobody runs: what the backup has is there,
// no position of before is valid, and nobody gets another message for one that is gone.
func TestRestoreOfABackup(t *testing.T) {
	t.Parallel()
	address := reserve(t)
	lost := startNATS(t, t.TempDir(), address)
	c := newCluster(t, address)
	s := c.startRoles(t)
	const room = "chat.restored"
	var before []receipt
	for i := range 3 {
		before = append(before, s.say(t, s.publishers[0], room, fmt.Sprint("kept ", i)))
	}
	copied := backUp(t, address)
	for i := range 3 {
		before = append(before, s.say(t, s.publishers[0], room, fmt.Sprint("lost ", i)))
	}
	for _, p := range slices.Backward(s.ops) {
		p.stop(t)
	}
	lost.kill(t)

	startNATS(t, t.TempDir(), address)
	copied.restore(t, address)
	stdout, stderr, status := execute(t, c.environ, program(t, carillonProgram), "epoch", "--config="+c.file)
	if want := restoredStream + " begins an epoch\n"; status != 0 || stdout != want {
		t.Errorf("carillon epoch: exit %d: %s%s, want %s", status, stdout, stderr, want)
	}

	s = c.startRoles(t)
	first := s.say(t, s.publishers[0], room, "new 0")
	if first.Epoch == before[0].Epoch || number(t, first.Offset) != 4 {
		t.Errorf("after the restore a message is at %v, before it at %v", first, before)
	}
	for i := 1; i < 4; i++ { // beyond all that was lost
		s.say(t, s.publishers[0], room, fmt.Sprint("new ", i))
	}
	var returned []client
	for _, old := range before {
		who := s.connect(t, s.edges[0], "returned"+old.Offset.String())
		if subscribed := who.resume(t, room, old.Epoch, uint64(number(t, old.Offset))); subscribed.GetRecovered() || subscribed.GetEpoch() != first.Epoch {
			t.Errorf("%v of before is answered with %v", old, subscribed)
		}
		returned = append(returned, who)
	}
	reader := s.connect(t, s.edges[0], "reader")
	if subscribed := reader.resume(t, room, first.Epoch, 0); !subscribed.GetRecovered() {
		t.Errorf("all of the restored stream is answered with %v", subscribed)
	}
	for _, text := range []string{"kept 0", "kept 1", "kept 2", "new 0", "new 1", "new 2", "new 3"} {
		reader.wantMessage(t, room, encode(t, map[string]string{"text": text}))
	}
	s.say(t, s.publishers[0], room, "last")
	for _, who := range returned {
		who.wantMessage(t, room, `{"text":"last"}`)
	}
}

// Without a NATS that answers, carillon epoch says so.
func TestEpochWantsNATS(t *testing.T) {
	t.Parallel()
	c := newCluster(t, reserve(t))
	_, stderr, status := execute(t, c.environ, program(t, carillonProgram), "epoch", "--config="+c.file, "--timeout=1s")
	if status == 0 || !strings.Contains(stderr, "carillon: nats: not connected") {
		t.Errorf("exit %d: %s", status, stderr)
	}
}
