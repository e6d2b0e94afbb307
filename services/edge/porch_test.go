package edge_test

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/carillon-rt/carillon/services/edge"
	"github.com/carillon-rt/carillon/services/internal/auth"
)

// However a handshake comes it leads to a session, and nothing is lost of what is said
// behind it.
func TestHandshakesInPieces(t *testing.T) {
	t.Parallel()
	w := start(t, nil)
	connect := string(masked(final|text, []byte(`{"id":1,"connect":{"token":"`+token(t, "alice", time.Hour)+`"}}`)))
	long := "+X: " + strings.Repeat("x", 5<<10)
	for name, pieces := range map[string][]string{
		"in one":                   {head() + connect},
		"of a size for net/http":   {head(long) + connect},
		"byte by byte":             strings.Split(head(), ""),
		"the head, then the frame": {head(), connect},
		"half a frame behind it":   {head() + connect[:9], connect[9:]},
		"an absolute URL":          {head("GET: GET http://edge/v1/ws HTTP/1.1")[len("GET: "):] + connect},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := &peer{t: t, conn: w.silent(t, "127.0.0.1")}
			p.in = bufio.NewReader(p.conn)
			for _, piece := range pieces {
				p.write([]byte(piece))
			}
			p.wantAnswer(http.StatusSwitchingProtocols)
			if name == "byte by byte" {
				p.write([]byte(connect))
			}
			if got := p.hear(); !strings.HasPrefix(got.payload, `{"id":1,"connected"`) {
				t.Errorf("got %q", got.payload)
			}
		})
	}
}

func (p *peer) wantAnswer(status int) {
	p.t.Helper()
	response, err := http.ReadResponse(p.in, nil)
	if err != nil {
		p.t.Fatal(err)
	}
	defer response.Body.Close()
	if _, err := io.Copy(io.Discard, response.Body); response.StatusCode != status {
		p.t.Fatalf("answered %s, %v", response.Status, err)
	}
}

// Who is refused may try again on the same connection; what was decided holds once.
func TestRefusedAndTriedAgain(t *testing.T) {
	t.Parallel()
	w := start(t, nil)
	p := &peer{t: t, conn: w.silent(t, "127.0.0.1")}
	p.in = bufio.NewReader(p.conn)
	for range 2 {
		p.write([]byte(head("+Authorization: Bearer hello")))
		p.wantAnswer(http.StatusUnauthorized)
	}
	p.write([]byte(head()))
	p.wantAnswer(http.StatusSwitchingProtocols)
	p.write(masked(final|text, []byte(`{"id":1,"connect":{"token":"`+token(t, "alice", time.Hour)+`"}}`)))
	if got := p.hear(); !strings.HasPrefix(got.payload, `{"id":1,"connected"`) {
		t.Errorf("got %q", got.payload)
	}
	w.wantHandshakes(t, 0)
}

// A head has five seconds, also if it has begun late and goes on to net/http.
func TestAHeadThatDoesNotEnd(t *testing.T) {
	t.Parallel()
	w := start(t, nil)
	conn, began := w.silent(t, "127.0.0.1"), time.Now()
	<-time.After(3 * time.Second)
	if _, err := conn.Write([]byte("GET /v1/ws HTTP/1.1\r\n")); err != nil {
		t.Fatal(err)
	}
	_, _ = conn.Read(make([]byte, 1))
	if took := time.Since(began); took > 7*time.Second {
		t.Errorf("it had %v", took)
	}
	w.wantHandshakes(t, 0)
}

// fickle is a Verifier with a fault.
type fickle struct{ edge.Verifier }

func (f fickle) Verify(ctx context.Context, token string) (auth.Identity, error) {
	if token == "fault" {
		panic("a fault")
	}
	return f.Verifier.Verify(ctx, token)
}

// A fault in one handshake costs that connection.
func TestAFaultInAHandshake(t *testing.T) {
	t.Parallel()
	w := start(t, func(o *edge.Options) { o.Verifier = fickle{o.Verifier} })
	conn := w.silent(t, "127.0.0.1")
	if _, err := conn.Write([]byte(head("+Authorization: Bearer fault"))); err != nil {
		t.Fatal(err)
	}
	if n, err := conn.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("read %d, %v", n, err)
	}
	w.wantHandshakes(t, 0)
	w.connect(t, "alice")
}
