package edge_test

import (
	"net/http"
	"testing"
	"time"
)

// A token that was good at the handshake and has run out since opens nothing.
func TestATokenThatRunsOutBeforeConnect(t *testing.T) {
	t.Parallel()
	w := start(t, nil)
	c := w.dial(t, http.Header{"Authorization": {"Bearer " + token(t, "alice", time.Second)}})
	<-time.After(2 * time.Second) // tokens end at a whole second
	c.say(`{"id":1,"connect":{}}`)
	c.want(`{"id":1,"error":{"code":"UNAUTHENTICATED","reason":"TOKEN_EXPIRED","message":"the token has expired","field":"token"}}`)
	c.hear("disconnect")
	c.wantClose(4419, "token_expired")
}
