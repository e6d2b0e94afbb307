package proxies_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	publishv1 "github.com/carillon-rt/carillon/gen/carillon/publish/v1"
)

// backups is what docs/backup.md has one write: users for permissions.conf, and commands
// that take a copy, put it back, and begin an epoch.
type backups struct{ users, take, restore, epoch string }

func readBackups(t *testing.T) (b backups) {
	t.Helper()
	text := read(t, "../docs/backup.md")
	for heading, into := range map[string]*string{"Who may": &b.users, "Back up": &b.take, "Restore": &b.restore} {
		_, section, _ := strings.Cut(text, "\n## "+heading+"\n")
		section, _, _ = strings.Cut(section, "\n## ")
		blocks := regexp.MustCompile("(?ms)^ *```(?:sh)?\n(.*?)\n *```$").FindAllStringSubmatch(section, -1)
		if len(blocks) == 0 {
			t.Fatalf("docs/backup.md has nothing to write in %q", heading)
		}
		*into = blocks[0][1]
		if heading == "Restore" && len(blocks) == 2 {
			b.epoch = blocks[1][1]
		}
	}
	for command, of := range map[string]string{"user: restore": b.users, "backup account": b.take, "backup restore": b.restore, "carillon epoch": b.epoch} {
		if !strings.Contains(of, command) {
			t.Fatalf("docs/backup.md does not have %q where it was: %q", command, of)
		}
	}
	return b
}

// files are the cluster's, with the users of the page.
func (b backups) files(t *testing.T) (cluster string) {
	t.Helper()
	dir := t.TempDir()
	permissions := read(t, "nats", "permissions.conf")
	changed := strings.Replace(permissions, "    users: [\n", "    users: [\n"+b.users+"\n", 1)
	if changed == permissions {
		t.Fatal("permissions.conf has no users")
	}
	write(t, filepath.Join(dir, "permissions.conf"), changed)
	cluster = filepath.Join(dir, "cluster.conf")
	write(t, cluster, read(t, "nats", "cluster.conf"))
	return cluster
}

// The cluster loses all its disks, and comes back from a copy by what docs/backup.md says,
// over TLS and by users that may do nothing else: what the copy has is there on every
// server, no position of before is valid, and what is new follows.
func TestRestore(t *testing.T) {
	b := readBackups(t)
	cluster := b.files(t)
	if !*network {
		return // and make proxies does the rest
	}
	s := startSystem(t, cluster)
	shell := s.shell(t)
	here := front{websocket: "ws://edge-0:8080/v1/ws", grpc: "publish-0:9090"}
	ctx, cancel := s.caller(t)
	defer cancel()
	conn := here.dial(t)
	publish, history := publishv1.NewPublishServiceClient(conn), publishv1.NewHistoryServiceClient(conn)
	say := func(channel, text string) (at *publishv1.PublishResponse) {
		t.Helper()
		eventually(t, "a message to "+channel, func(context.Context) (err error) {
			at, err = publish.Publish(ctx, said(channel, text))
			return err
		})
		return at
	}
	channels := []string{"chat.one", "chat.two", "chat.three", "chat.four", "user.alice"} // on all partitions
	before := map[string]*publishv1.PublishResponse{}
	for _, channel := range channels {
		say(channel, `"kept"`)
	}
	shell(b.take)
	for _, channel := range channels {
		before[channel] = say(channel, `"lost"`)
	}

	s.loseAndRestore(t, cluster, func() { shell(b.restore); shell(b.epoch) })

	alice := here.connect(t, s, "alice", "")
	for _, channel := range channels {
		at := say(channel, `"new"`)
		if at.GetEpoch() == before[channel].GetEpoch() {
			t.Errorf("%s goes on in the epoch of before", channel)
		}
		if channel == "user.alice" {
			continue // her inbox, to which she is subscribed already
		}
		resumed, err := alice.Resume(ctx, channel, before[channel].GetEpoch(), before[channel].GetOffset())
		if err != nil || resumed.GetRecovered() {
			t.Errorf("%s: a position of before is answered with %v, %v", channel, resumed, err)
		}
	}
	s.running["nats-0"].Kill() // whoever has the copy, the others have it too
	for _, channel := range channels {
		say(channel, `"last"`)
		var texts []string
		eventually(t, "the history of "+channel, func(context.Context) error {
			list, err := history.ListMessages(ctx, &publishv1.ListMessagesRequest{Target: &publishv1.ListMessagesRequest_Channel{Channel: channel}})
			texts = nil
			for _, m := range list.GetMessages() {
				texts = append(texts, m.GetJson())
			}
			return err
		})
		if want := []string{`"kept"`, `"new"`, `"last"`}; fmt.Sprint(texts) != fmt.Sprint(want) {
			t.Errorf("%s has %v, want %v", channel, texts, want)
		}
	}
}

// loseAndRestore stops all roles, takes the disks of the cluster away, and starts everything
// again, with what restores it between NATS and the roles.
func (s *system) loseAndRestore(t *testing.T, cluster string, restore func()) {
	t.Helper()
	for _, name := range slices.Backward(roles) {
		s.running[name].Stop()
	}
	for _, name := range nodes {
		s.running[name].Kill()
	}
	if err := os.RemoveAll(filepath.Join(s.dir, "data")); err != nil {
		t.Fatal(err)
	}
	for _, name := range nodes {
		s.startNATS(t, name, cluster)
	}
	for _, name := range nodes {
		s.natsHealthy(t, name)
	}
	restore()
	for _, name := range nodes {
		s.natsHealthy(t, name) // it has what was restored
	}
	for _, name := range roles {
		s.startRole(t, name)
	}
	for _, name := range roles {
		s.ready(t, name)
	}
}

// shell runs commands of a page as written, in the directory of the system's files and with
// the programs that they name.
func (s *system) shell(t *testing.T) func(commands string) {
	t.Helper()
	programs := filepath.Join(s.dir, "bin")
	if err := os.Mkdir(programs, 0o700); err != nil {
		t.Fatal(err)
	}
	for name, program := range map[string]string{"carillon": *carillonFlag, "nats": *natsFlag} {
		path, err := filepath.Abs(program)
		if err == nil {
			err = os.Symlink(path, filepath.Join(programs, name))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	write(t, filepath.Join(s.dir, "carillon.yaml"), file(t, s.dir, "publish-0.yaml"))
	environ := append(slices.Clone(s.environ), "PATH="+programs+":"+os.Getenv("PATH"), "HOME="+s.dir)
	return func(commands string) {
		t.Helper()
		check(t, environ, "bash", "-euc", "cd "+s.dir+"\n"+commands)
	}
}
