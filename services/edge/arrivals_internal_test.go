package edge

import (
	"net"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"

	"github.com/coder/websocket"

	"github.com/carillon-rt/carillon/services/edge/socket"
)

// A connection that had to make room while it was upgraded ends as a socket too: it must
// not write to whoever has got its file descriptor.
func TestMakingRoomWhileBeingUpgraded(t *testing.T) {
	t.Parallel()
	var (
		h          handshakes
		goroutines sync.WaitGroup
		done       = make(chan (<-chan struct{}), 1)
	)
	h.init(1)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		here, there := net.Pipe()
		defer there.Close()
		first, _ := h.begin(here)
		s, err := socket.Accept(w, r, "", &session{}, &socket.Options{MaxMessageBytes: 1, MaxQueueBytes: 1, Go: goroutines.Go})
		if err != nil {
			t.Error(err)
			return
		}
		if _, closed := h.begin(there); !closed {
			t.Error("there was room")
		}
		h.upgraded(first, s)
		done <- s.Done()
	}))
	defer server.Close()
	client, _, err := websocket.Dial(t.Context(), server.URL, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = client.CloseNow() }()
	<-<-done
	goroutines.Wait()
}
