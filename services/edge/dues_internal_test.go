package edge

import (
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"
)

// What is due is taken, once until it is due again; nothing else is, and nothing is lost.
func TestDues(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		began := time.Now()
		d := &dues{began: began}
		want := map[*session]time.Duration{}
		var known []*session
		some := func() *session { return known[rapid.IntRange(0, len(known)-1).Draw(t, "which")] }
		at := func() time.Duration { return time.Duration(rapid.IntRange(0, 100).Draw(t, "at")) }
		t.Repeat(map[string]func(*rapid.T){
			"add": func(*rapid.T) {
				s, due := &session{due: due{index: -1}}, at()
				d.add(s, began.Add(due))
				known, want[s] = append(known, s), due
			},
			"hasten": func(t *rapid.T) {
				if len(known) == 0 {
					t.Skip()
				}
				s, sooner := some(), at()
				d.hasten(s, began.Add(sooner))
				if due, there := want[s]; there {
					want[s] = min(due, sooner)
				}
			},
			"remove": func(t *rapid.T) {
				if len(want) == 0 {
					t.Skip()
				}
				if s := some(); s.due.index >= 0 {
					d.remove(s)
					delete(want, s)
				}
			},
			"take": func(t *rapid.T) {
				now := at()
				for s := d.take(began.Add(now)); s != nil; s = d.take(began.Add(now)) {
					if due, there := want[s]; !there || due > now {
						t.Fatalf("at %d came what is due at %d (%t)", now, due, there)
					}
					want[s] = beingChecked
				}
				for _, due := range want {
					if due <= now {
						t.Fatalf("at %d did not come what was due at %d", now, due)
					}
				}
			},
		})
	})
}

func TestDemandOfTime(t *testing.T) {
	t.Parallel()
	const connect, ping, pong, notice = 5 * time.Second, 25 * time.Second, 10 * time.Second, 20 * time.Second
	e := &Edge{options: Options{
		Limits:      Limits{ConnectTimeout: connect, PingInterval: ping, PongTimeout: pong},
		Credentials: Credentials{Notice: notice},
	}}
	opened := time.Unix(1_000_000, 0)
	expiring := func(in time.Duration) *grant { return &grant{expires: opened.Add(in).Unix()} }
	reminded := expiring(30 * time.Second)
	reminded.reminded.Store(true)
	for name, at := range map[string]struct {
		age, heard, pinged time.Duration
		grant              *grant
		want               time.Duration // the age at which to come again
	}{
		"no connect yet":                       {age: time.Second, heard: time.Second, want: connect},
		"no connect in time":                   {age: connect, want: connect + checkInterval},
		"heard":                                {age: time.Minute, heard: 50 * time.Second, grant: &grant{}, want: 75 * time.Second},
		"a ping is out":                        {age: time.Minute, heard: 30 * time.Second, pinged: 55 * time.Second, grant: &grant{}, want: 65 * time.Second},
		"the token expires, who has it told":   {age: time.Second, heard: time.Second, grant: expiring(30 * time.Second), want: 10 * time.Second},
		"the token expires, and that was told": {age: 15 * time.Second, heard: 15 * time.Second, grant: reminded, want: 30 * time.Second},
		"the token has expired":                {age: 40 * time.Second, heard: 40 * time.Second, grant: reminded, want: 40*time.Second + checkInterval},
	} {
		s := &session{edge: e, opened: opened}
		s.lastHeard.Store(int64(at.heard))
		s.pinged.Store(int64(at.pinged))
		if next := s.demand(at.grant, opened.Add(at.age)).Sub(opened); next != at.want {
			t.Errorf("%s: to be looked at again after %v, want %v", name, next, at.want)
		}
	}
	e.options.Limits.PingInterval = time.Hour
	s := &session{edge: e, opened: opened}
	if next := s.demand(expiring(time.Hour), opened).Sub(opened); next != maxUnchecked {
		t.Errorf("to be looked at again after %v, want %v: the clock of the wall may be set", next, maxUnchecked)
	}
}

// Nobody is looked at later than a check interval after being due, whatever the rest was
// for; where nobody is due soon, it is long.
func TestRestUntilSomebodyIsDue(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := newDues()
		in := func(wait time.Duration) *session {
			s := &session{due: due{index: -1}}
			d.add(s, time.Now().Add(wait))
			return s
		}
		rest := func(want time.Duration) {
			t.Helper()
			if rest := d.rest(time.Now()); rest != want {
				t.Fatalf("a rest of %v, want %v", rest, want)
			}
		}
		disturbed := func(want bool) {
			t.Helper()
			select {
			case <-d.sooner:
				if !want {
					t.Fatal("disturbed for nothing")
				}
			default:
				if want {
					t.Fatal("not disturbed")
				}
			}
		}
		rest(maxRested)
		late := in(time.Minute)
		disturbed(false)
		rest(maxRested)
		in(2 * time.Second)
		disturbed(true)
		rest(2 * time.Second)
		in(3 * time.Second)
		disturbed(false)
		d.hasten(late, time.Now().Add(time.Second))
		disturbed(true)
		rest(time.Second)
		time.Sleep(1500 * time.Millisecond)
		rest(0)
	})
}
