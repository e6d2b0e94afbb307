package auth

import (
	"context"
	"log/slog"
	"reflect"
	"strings"
	"sync"
	"time"

	"github.com/carillon-rt/carillon/services/internal/metronome"
)

// rereadInterval is how often the files of keys are looked at.
const rereadInterval = time.Second

// Run does what verifying needs done in the background, until ctx ends: it fetches the
// keys of issuers with a jwks_url, at once and at intervals, and reads the files of keys
// again when they change, within a second. What cannot be fetched or read is logged, and
// the keys that are known stay good. It is called once.
func (v *Verifier) Run(ctx context.Context, logger *slog.Logger) {
	var fetching sync.WaitGroup
	defer fetching.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	client := newKeyClient(v.keys)
	running := map[*keySet]context.CancelFunc{}
	noted := map[string]string{} // by the name of an issuer, what was last logged of its files
	files := time.NewTimer(metronome.Next(rereadInterval))
	defer files.Stop()
	for {
		wanted := v.table.Load().keySets()
		for set, stop := range running {
			if !wanted[set] {
				stop()
				delete(running, set)
			}
		}
		for set := range wanted {
			if running[set] == nil {
				fetch, stop := context.WithCancel(ctx)
				running[set] = stop
				fetching.Go(func() { set.run(fetch, client, logger) })
			}
		}
		select {
		case <-v.replaced:
		case <-files.C:
			files.Reset(metronome.Next(rereadInterval))
			v.reread(logger, noted)
		case <-ctx.Done():
			return
		}
	}
}

func (t table) keySets() map[*keySet]bool {
	all := map[*keySet]bool{}
	for _, i := range t {
		if set, ok := i.keys.(*keySet); ok {
			all[set] = true
		}
	}
	return all
}

// KeysCurrent tells, by the name of each issuer with a jwks_url, whether the latest fetch
// of its keys has succeeded. Only a verifier that runs fetches any.
func (v *Verifier) KeysCurrent() map[string]bool {
	current := map[string]bool{}
	for set := range v.table.Load().keySets() {
		current[set.issuer] = set.current()
	}
	return current
}

// reread loads the keys that are kept in files and takes those that have changed.
func (v *Verifier) reread(logger *slog.Logger, noted map[string]string) {
	for _, i := range *v.table.Load() {
		held, ok := i.keys.(*heldKeys)
		if !ok || i.Secret.File == "" && i.PreviousSecret.File == "" && i.PublicKey.File == "" {
			continue
		}
		keys, problems := i.loadKeys(v.load)
		if keys != nil && !reflect.DeepEqual(keys, *held.keys.Load()) {
			// Files that change together may have been read one before that and one after.
			if again, _ := i.loadKeys(v.load); !reflect.DeepEqual(keys, again) {
				continue
			}
		}
		text := strings.Join(problems, "; ")
		if text != "" && text != noted[i.Name] {
			logger.Error("the issuer's key cannot be read again; the one that is known stays", "issuer", i.Name, "error", text)
		}
		noted[i.Name] = text
		if keys != nil && !reflect.DeepEqual(keys, *held.keys.Load()) {
			held.keys.Store(&keys)
			logger.Info("the issuer's key was read again", "issuer", i.Name)
		}
	}
}

// Replace puts other issuers in the place of those of all the verifiers: in all of them,
// or with an error, which has a line a problem and shows no secret, in none. What was
// fetched for issuers that stay is kept. One goroutine at a time may call it.
func Replace(issuers []Issuer, verifiers ...*Verifier) error {
	tables := make([]table, len(verifiers))
	for i, v := range verifiers {
		var err error
		if tables[i], err = compileTable(v.kind, issuers, v.load); err != nil {
			return err
		}
	}
	for i, v := range verifiers {
		v.replace(tables[i])
	}
	return nil
}

func (v *Verifier) replace(next table) {
	known := v.table.Load().keySets()
	for _, i := range next {
		for set := range known {
			own, ok := i.keys.(*keySet)
			switch {
			case !ok || !own.same(set):
			case own.every == set.every:
				i.keys = set
			default: // fetched at other intervals, which are another run's
				own.published.Store(set.published.Load())
			}
		}
	}
	v.table.Store(&next)
	select {
	case v.replaced <- struct{}{}:
	default: // Run will see this table
	}
}
