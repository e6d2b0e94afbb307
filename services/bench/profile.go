//go:build linux

package bench

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"time"
)

const (
	profileSuffix = ".pprof"
	// profileTime is how long one CPU profile is: `go tool pprof` adds up as many files
	// as it is given, and nobody knows before how long a part takes.
	profileTime = 5 * time.Second
)

// operated is a system with pages for its operator.
type operated interface{ Ops() []string }

// profile keeps CPU profiles of every process that has them, until the function that it
// returns is called, which waits for the last and keeps a profile of the heap.
func (s *stage) profile() (end func() error) {
	server, ok := s.server.(operated)
	if !ok || !s.run.Profile {
		return func() error { return nil }
	}
	s.profiled++
	over := make(chan struct{})
	failed := make(chan error, len(server.Ops()))
	for i, ops := range server.Ops() {
		go func() {
			for piece := 1; ; piece++ {
				name := fmt.Sprintf("process%d-part%d-cpu%d", i+1, s.profiled, piece)
				err := s.keep(name, fmt.Sprintf("http://%s/debug/pprof/profile?seconds=%d", ops, profileTime/time.Second))
				if err != nil {
					failed <- err
					return
				}
				select {
				case <-over:
					failed <- s.keep(fmt.Sprintf("process%d-part%d-heap", i+1, s.profiled), "http://"+ops+"/debug/pprof/heap?gc=1")
					return
				default:
				}
			}
		}()
	}
	return func() error {
		close(over)
		var err error
		for range server.Ops() {
			if e := <-failed; err == nil {
				err = e
			}
		}
		return err
	}
}

// keep keeps a page as a file.
func (s *stage) keep(name, url string) error {
	page, err := fetch(url, 4*profileTime)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(s.run.dir, name+profileSuffix), page, 0o600)
}

func fetch(url string, within time.Duration) ([]byte, error) {
	ctx, cancel := context.WithTimeout(context.Background(), within)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
	if err != nil {
		return nil, err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	page, err := io.ReadAll(response.Body)
	if err == nil && response.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s: %.200s", url, response.Status, page)
	}
	return page, err
}
