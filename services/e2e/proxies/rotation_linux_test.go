package proxies_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/nats-io/nats.go"
)

// rotation are the commands that docs/nats.md has for certificates, line by line: two make
// new ones of the same authority, three go to another authority.
func rotation(t *testing.T) (certificates, authority []string) {
	t.Helper()
	_, section, _ := strings.Cut(read(t, "../docs/nats.md"), "\n## New passwords and certificates\n")
	section, _, _ = strings.Cut(section, "\n## ")
	blocks := regexp.MustCompile("(?s)```sh\n(.*?)\n```").FindAllStringSubmatch(section, -1)
	if len(blocks) != 2 {
		t.Fatalf("docs/nats.md has %d blocks of commands about certificates", len(blocks))
	}
	certificates, authority = strings.Split(blocks[0][1], "\n"), strings.Split(blocks[1][1], "\n")
	if len(certificates) != 2 || len(authority) != 3 {
		t.Fatalf("docs/nats.md has the commands %q and %q", certificates, authority)
	}
	return certificates, authority
}

// Passwords, certificates and the authority of the cluster are replaced as docs/nats.md
// says, under load: every promise is kept, and what was replaced opens nothing.
func TestRotation(t *testing.T) {
	certificates, authority := rotation(t)
	if !*network {
		return // and make proxies does the rest
	}
	s := startSystem(t, "cluster.conf")
	tools, err := filepath.Abs(deployments)
	if err == nil {
		err = os.Symlink(tools, filepath.Join(s.dir, "deployments"))
	}
	if err != nil {
		t.Fatal(err)
	}
	run := func(commands ...string) {
		t.Helper()
		for _, c := range commands {
			check(t, nil, "sh", "-c", "cd "+s.dir+" && "+c)
		}
		for _, name := range nodes {
			check(t, nil, *natsServerFlag, "--signal", fmt.Sprint("reload=", s.running[name].PID()))
			s.natsHealthy(t, name)
		}
		flow(t)
	}
	f := front{websocket: "ws://edge-1:8080/v1/ws"}
	underLoad(t, s, f, []string{"ws://edge-0:8080/v1/ws", f.websocket}, []string{"publish-0:9090", "publish-1:9090"}, func() {
		flow(t)
		s.newPasswords(t)
		run(certificates...)
		for _, step := range authority {
			run(step)
		}
		// Who starts anew has only what is new, to others and to each other.
		for _, name := range nodes {
			s.restartNATS(t, name)
			flow(t)
		}
		for _, name := range []string{"edge-0", "publish-0"} {
			s.running[name].Stop()
			s.startRole(t, name)
			s.ready(t, name)
			flow(t)
		}
	})
	for _, name := range nodes {
		s.opens(t, name, filepath.Join(s.dir, "tls-new/ca.pem"))
	}
}

// newPasswords has the users of roles get other passwords, in the order of docs/nats.md.
func (s *system) newPasswords(t *testing.T) {
	t.Helper()
	for i, variable := range s.environ {
		s.environ[i] = regexp.MustCompile("=(password-of-(edge|publish))$").ReplaceAllString(variable, "=new-$1")
	}
	for i, name := range nodes {
		s.restartNATS(t, name)
		if i == 0 {
			for _, user := range []string{"edge", "publish"} {
				write(t, filepath.Join(s.dir, user+".password"), "new-password-of-"+user)
			}
		}
		flow(t)
	}
}

// restartNATS restarts a server as docs/nats.md says: it hands over what it has and ends.
func (s *system) restartNATS(t *testing.T, name string) {
	t.Helper()
	was := s.running[name]
	check(t, nil, *natsServerFlag, "--signal", fmt.Sprint("ldm=", was.PID()))
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	// It writes to its log alone, so what ends this is its end.
	if _, err := was.Line(ctx, "a line that is never printed"); ctx.Err() != nil {
		t.Fatalf("%s does not end: %v", name, err)
	}
	s.startNATS(t, name, "cluster.conf")
	s.natsHealthy(t, name)
}

// natsHealthy waits until a server is up to date with its streams.
func (s *system) natsHealthy(t *testing.T, name string) {
	t.Helper()
	eventually(t, name+" is healthy", func(ctx context.Context) error {
		status, text, err := fetch(ctx, "http://"+name+":8222/healthz")
		if err == nil && status != http.StatusOK {
			err = errors.New(strconv.Itoa(status) + " " + text)
		}
		return err
	})
}

// opens tries what a server lets in, with a certificate of an authority: the new password
// and not the old one.
func (s *system) opens(t *testing.T, name, authority string) {
	t.Helper()
	for _, user := range []string{"edge", "publish"} {
		for _, password := range []string{"password-of-" + user, "new-password-of-" + user} {
			nc, err := nats.Connect("tls://"+name+":4222", nats.UserInfo(user, password), nats.RootCAs(authority))
			if err == nil {
				nc.Close()
			}
			if isNew := strings.HasPrefix(password, "new-"); isNew != (err == nil) || !isNew && !errors.Is(err, nats.ErrAuthorization) {
				t.Errorf("%s with %s: %v", name, password, err)
			}
		}
	}
}
