package cluster_test

import (
	"context"
	"encoding/json"
	"fmt"
	"os/exec"
	"slices"
	"sync"
	"testing"
	"time"
)

// pod is what is looked at of one.
type pod struct {
	Metadata struct {
		Name, UID         string
		Labels            map[string]string
		DeletionTimestamp time.Time
	}
	Status struct {
		ContainerStatuses []struct {
			ContainerID  string
			RestartCount int
			State        struct {
				Terminated *struct {
					ExitCode, Signal int
					Reason           string
					FinishedAt       time.Time
				}
			}
		}
	}
}

// podWatch remembers the last that Kubernetes has said of each pod, also of those that are gone.
type podWatch struct {
	mu   sync.Mutex
	last map[string]pod // by UID
	gone map[string]bool
	// killed is when each will be killed that has been asked to stop: what it is given when it
	// is asked, since the kubelet takes back what is left of it.
	killed map[string]time.Time
}

// watch follows the pods until the benchmark ends.
func (c *cluster) watch(b *testing.B) {
	b.Helper()
	c.pods = &podWatch{last: map[string]pod{}, gone: map[string]bool{}, killed: map[string]time.Time{}}
	ctx, cancel := context.WithCancel(context.Background())
	command := exec.CommandContext(ctx, "kubectl", "get", "pods", "--watch", "--output-watch-events", "--output=json")
	said, err := command.StdoutPipe()
	must(b, err)
	must(b, command.Start())
	over := make(chan struct{})
	b.Cleanup(func() {
		cancel()
		<-over
	})
	go func() {
		defer close(over)
		for decoder := json.NewDecoder(said); ; {
			var event struct {
				Type   string
				Object pod
			}
			if decoder.Decode(&event) != nil {
				break
			}
			c.pods.note(event.Object, event.Type == "DELETED")
		}
		_ = command.Wait() // it is killed
	}()
}

func (w *podWatch) note(p pod, gone bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.last[p.Metadata.UID] = p
	w.gone[p.Metadata.UID] = w.gone[p.Metadata.UID] || gone
	if _, known := w.killed[p.Metadata.UID]; !known && !p.Metadata.DeletionTimestamp.IsZero() {
		w.killed[p.Metadata.UID] = p.Metadata.DeletionTimestamp
	}
}

// spare is how long before it would have been killed a pod has ended by itself.
func (w *podWatch) spare(b *testing.B, uid string) (time.Duration, error) {
	b.Helper()
	eventually(b, "a pod is gone", func(context.Context) error {
		w.mu.Lock()
		defer w.mu.Unlock()
		if !w.gone[uid] {
			return fmt.Errorf("it is not: %+v", w.last[uid])
		}
		return nil
	})
	w.mu.Lock()
	defer w.mu.Unlock()
	containers := w.last[uid].Status.ContainerStatuses
	if len(containers) != 1 || containers[0].State.Terminated == nil {
		return 0, fmt.Errorf("nothing was heard of its end: %+v", containers)
	}
	end := containers[0].State.Terminated
	if end.ExitCode != 0 || end.Signal != 0 {
		return 0, fmt.Errorf("it ended like this: %+v", end)
	}
	return w.killed[uid].Sub(end.FinishedAt), nil
}

// all are the UIDs of the pods of roles that are to stay, by name.
func (c *cluster) all(b *testing.B) map[string]string {
	b.Helper()
	found := map[string]string{}
	for _, role := range roles {
		for _, p := range c.staying(b, role) {
			found[p.Metadata.Name] = p.Metadata.UID
		}
	}
	return found
}

// staying are the pods of a role that have not been asked to stop.
func (c *cluster) staying(b *testing.B, role string) []pod {
	b.Helper()
	var list struct{ Items []pod }
	must(b, json.Unmarshal([]byte(c.run(b, "kubectl", "get", "pods", "--selector=app.kubernetes.io/component="+role, "--output=json")), &list))
	return slices.DeleteFunc(list.Items, func(p pod) bool { return !p.Metadata.DeletionTimestamp.IsZero() })
}

// fewestSpare is the least that has to be left of terminationGracePeriodSeconds: the chart
// adds as much to what a stop may take.
const fewestSpare = 5 * time.Second

// rolled wants every pod replaced, none of which had to be killed, and no client to have lost
// its connection but by being told to come back.
func (c *cluster) rolled(b *testing.B, before map[string]string) {
	b.Helper()
	after := c.all(b)
	for name, uid := range before {
		if after[name] == uid {
			b.Errorf("%s is still there", name)
			continue
		}
		spare, err := c.pods.spare(b, uid)
		if err != nil || spare < fewestSpare {
			b.Errorf("%s: %v before it would have been killed: %v", name, spare, err)
			continue
		}
		b.Logf("%s has ended %v before it would have been killed", name, spare)
	}
	ended := c.sessions.codes()
	b.Logf("connections ended, by code: %v", ended)
	if n := ended[closeDraining]; n < clients || len(ended) != 1 {
		b.Errorf("%d clients were on edges that stopped", clients)
	}
}
