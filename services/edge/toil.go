package edge

import (
	"runtime"
	"time"
)

// largeFrame is the size beyond which decoding a frame is toil: 64 KiB of JSON take a
// millisecond.
const largeFrame = 4 << 10

// toil is work that costs far more than the command it is done for. However many ask for
// it, it takes half of the processors at most: without that, who sends small frames would
// wait in the scheduler's queue for everybody who sends large ones.
type toil chan struct{}

func newToil() toil { return make(toil, runtime.GOMAXPROCS(0)) }

// do does some, one at a time for each processor, which then is left to others for as
// long as it took.
func (t toil) do(work func()) {
	t <- struct{}{}
	began := time.Now()
	defer func() { time.AfterFunc(time.Since(began), func() { <-t }) }()
	work()
}
