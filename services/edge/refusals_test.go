package edge_test

import (
	"log/slog"
	"net/http"
	"strings"
	"testing"

	"github.com/golang-jwt/jwt/v5"

	"github.com/carillon-rt/carillon/services/edge"
)

// Who is refused can be told why from the log, at its usual level.
func TestRefusalsAreLogged(t *testing.T) {
	t.Parallel()
	log := &noted{}
	w := start(t, func(o *edge.Options) { o.Logger = slog.New(slog.NewTextHandler(log, nil)) })
	late := tokenWith(t, jwt.MapClaims{"sub": "late", "exp": 1})
	w.refused(t, "", http.Header{"Authorization": {"Bearer " + late}})
	w.dial(t, nil).say(`{"id":1,"connect":{"token":"` + late + `"}}`)
	c := w.connect(t, "alice")
	c.say(`{"id":2,"publish":{"channel":"chat.secret","data":1}}`)
	c.hear("error")
	c.say(`nonsense`)
	c.hear("disconnect")
	if err := w.end(); err != nil { // the line is written once the frame is on its way
		t.Error(err)
	}
	for _, line := range []string{
		`msg="handshake refused" remote=127.0.0.1:`, `reason=TOKEN_EXPIRED`,
		`msg="command refused"`, `user_id=alice reason=POLICY_DENIED`,
		`msg=disconnecting`, `code=4400 reason=FRAME_MALFORMED`,
	} {
		if !strings.Contains(log.String(), line) {
			t.Errorf("no %s in\n%s", line, log)
		}
	}
}
