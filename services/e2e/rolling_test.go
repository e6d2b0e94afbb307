package e2e_test

import (
	"encoding/json"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"

	publishv1 "github.com/carillon-rt/carillon/gen/carillon/publish/v1"
)

// A rolling restart is by plan: nobody on call need read of it. Each process of every role
// is stopped and started again in turn, while clients, watchers and callers hold streams to
// it, and none of them logs anything above info.
func TestARollingRestartIsNoNews(t *testing.T) {
	t.Parallel()
	address := reserve(t)
	startNATS(t, t.TempDir(), address)
	c := newCluster(t, address)
	replicas := []string{reserve(t), reserve(t)}
	edges := []string{reserve(t), reserve(t)}
	publisher := reserve(t)
	starts := []func() *process{
		func() *process { return c.start(t, "presence", "--presence.listen="+replicas[0]) },
		func() *process { return c.start(t, "presence", "--presence.listen="+replicas[1]) },
		func() *process { return c.start(t, "publish", "--publish.listen="+publisher, presences(replicas...)) },
		func() *process {
			return c.start(t, "edge", "--edge.listen="+edges[0], "--edge.drain-window=1s", presences(replicas...))
		},
		func() *process {
			return c.start(t, "edge", "--edge.listen="+edges[1], "--edge.drain-window=1s", presences(replicas...))
		},
	}
	var running []*process
	for _, start := range starts {
		running = append(running, start())
	}
	for _, p := range running {
		p.ready(t)
	}
	s := c.system(t, running...)
	s.sessionOf(t, "ann", "chat.rolling", edges...)
	s.witness(t, edges[0], "bob", "chat.rolling")
	s.witness(t, edges[1], "carol", "chat.rolling")
	s.backend(t, "chat.rolling", func() []string { return replicas })
	s.members(t, "chat.rolling", "ann", "bob", "carol")
	s.publishing(t, publisher)
	before := map[*process]int{} // logged, as they had no one to talk to yet
	for _, p := range running {
		before[p] = p.logged()
	}
	all := running
	for i, start := range starts {
		running[i].stop(t)
		all = append(all, start().ready(t))
	}
	for _, p := range all {
		lines, _ := p.stderr.complete()
		for _, line := range lines[before[p]:] {
			var entry struct{ Level, Msg string }
			if err := json.Unmarshal([]byte(line), &entry); err != nil || entry.Level != "INFO" && !strings.HasPrefix(entry.Msg, machineStalled) {
				t.Errorf("%s: %s", p.name, line)
			}
		}
	}
}

// machineStalled begins what presence logs where the machine is so busy that a second goes by.
const machineStalled = "this process was stopped for a while"

// publishing holds a PublishStream over which one message has gone.
func (s *system) publishing(t *testing.T, publisher string) {
	t.Helper()
	conn, err := grpc.NewClient(publisher, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	ctx := metadata.AppendToOutgoingContext(t.Context(), "authorization", "Bearer "+s.token(t, "service", s.caller))
	stream, err := publishv1.NewPublishServiceClient(conn).PublishStream(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Send(&publishv1.PublishStreamRequest{Id: 1, Message: &publishv1.PublishRequest{
		Target: &publishv1.PublishRequest_Channel{Channel: "chat.rolling"}, Payload: &publishv1.PublishRequest_Json{Json: "1"},
	}}); err != nil {
		t.Fatal(err)
	}
	if answer, err := stream.Recv(); err != nil || answer.GetError() != nil {
		t.Fatal(answer, err)
	}
}
