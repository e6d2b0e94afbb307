// Package presence_test holds presence as a whole against a model: the rosters of
// several edges and several presence services, over connections in memory that can be
// cut and held, in the time of a synctest bubble, so that minutes of faults take
// seconds. It does not know WebSockets, tokens or processes; package e2e has those.
package presence_test

import (
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }
