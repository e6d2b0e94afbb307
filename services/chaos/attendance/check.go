package attendance

import (
	"cmp"
	"fmt"
	"slices"
	"time"
)

// Check compares everything that was taken down. Nothing may be taken down meanwhile.
//
// What it looks for:
//
//   - a list, whether a replica has answered with it or a watcher keeps it, has nobody who
//     cannot be a member, and everybody who has to be one, each once;
//   - a number of members lies between how many have to be and how many can be;
//   - nobody is said to have left who had to be a member all the time before;
//   - once all is quiet, every list has just those who are there.
func (c *Checker) Check() *Report {
	c.mu.Lock()
	defer c.mu.Unlock()
	r := &Report{Violations: map[Kind]int{}, Stats: c.stats, Users: len(c.users), Channels: len(c.rooms), Watchers: len(c.watchers)}
	for _, k := range Kinds() {
		r.Violations[k] = 0
	}
	j := newJudge(c)
	calms := j.calms()
	for _, p := range c.polls {
		if i := slices.IndexFunc(calms, func(calm span) bool { return calm.from <= p.from && p.to < calm.to }); i >= 0 {
			j.calmPoll(r, p, calms[i].from)
		} else {
			j.poll(r, p)
		}
	}
	for _, w := range c.watchers {
		for _, at := range w.windows {
			(&reading{judge: j, report: r, watcher: w, window: at}).run()
			for _, calm := range calms {
				if at.known && at.from < calm.from && at.closed > calm.from {
					j.exactly(r, w.name, w.channel, calm.from, at.list(calm.from))
				}
			}
		}
	}
	slices.SortStableFunc(r.Examples, func(a, b Example) int {
		return cmp.Or(cmp.Compare(slices.Index(Kinds(), a.Kind), slices.Index(Kinds(), b.Kind)), cmp.Compare(a.At, b.At))
	})
	return r
}

// calms are the times in which everything has to be exact.
func (j *judge) calms() []span {
	var calms []span
	for _, q := range j.quiet {
		calm := span{q, never}
		for _, r := range j.rooms {
			for _, stays := range r.stays {
				for _, s := range stays {
					for _, at := range []time.Duration{s.asked, s.leaving, s.ended} {
						if at > q {
							calm.to = min(calm.to, at)
						}
					}
				}
			}
		}
		calms = append(calms, calm)
	}
	return calms
}

// there are the users who take themselves for subscribed.
func (j *judge) there(channel string, at time.Duration) []userID {
	var users []userID
	if r := j.rooms[channel]; r != nil {
		for user, stays := range r.stays {
			if slices.ContainsFunc(stays, func(s *stay) bool { return s.there(at) }) {
				users = append(users, user)
			}
		}
	}
	return users
}

func (j *judge) calmPoll(r *Report, p poll, calm time.Duration) {
	who := "a list of " + p.replica
	if !p.counted {
		j.exactly(r, who, p.channel, p.from, p.users)
		return
	}
	if n := len(j.there(p.channel, calm)); n != p.members {
		r.found(Example{Kind: Diverged, Who: "a count of " + p.replica, Channel: p.channel, At: p.from, Detail: fmt.Sprintf("%d members are counted, and %d are there", p.members, n)})
	}
}

// exactly compares a list with who is there.
func (j *judge) exactly(r *Report, who, channel string, at time.Duration, users []userID) {
	r.Exact++
	there := j.there(channel, at)
	for _, user := range users {
		if !slices.Contains(there, user) {
			r.found(Example{Kind: Diverged, Who: who, Channel: channel, User: j.users[user], At: at, Detail: "all is quiet, and the user is listed without being there"})
		}
	}
	for _, user := range there {
		if !slices.Contains(users, user) {
			r.found(Example{Kind: Diverged, Who: who, Channel: channel, User: j.users[user], At: at, Detail: "all is quiet, and the user is there without being listed"})
		}
	}
}

// poll judges an answer: whoever was to be shown all the time that the question took
// has to be in it, whoever was not to be shown for a moment of it must not.
func (j *judge) poll(r *Report, p poll) {
	all := j.of(p.channel, p.replica)
	if p.counted {
		least, most := 0, 0
		for _, t := range all {
			if t.must.cover(p.span) {
				least++
			}
			if len(t.may.meeting(p.span)) > 0 {
				most++
			}
		}
		if p.members < least || p.members > most {
			r.found(Example{Kind: Miscounted, Who: "a count of " + p.replica, Channel: p.channel, At: p.from, Detail: fmt.Sprintf("%d members are counted, of at least %d and at most %d", p.members, least, most)})
		}
		return
	}
	found := func(kind Kind, user userID, detail string) {
		r.found(Example{Kind: kind, Who: "a list of " + p.replica, Channel: p.channel, User: j.users[user], At: p.from, Detail: detail})
	}
	listed := map[userID]bool{}
	for _, user := range p.users {
		if listed[user] {
			found(Doubled, user, "listed twice")
		}
		listed[user] = true
		if t := all[user]; len(t.may.meeting(p.span)) == 0 {
			found(Ghost, user, t.whenGone(p.from))
		}
	}
	for user, t := range all {
		switch {
		case t.must.cover(p.span):
			r.Certain++
			if !listed[user] {
				found(Missing, user, t.whenThere(p.from))
			}
		case len(t.may.meeting(p.span)) == 0:
			r.Certain++
		default:
			r.Uncertain++
		}
	}
}

// whenGone says since when a user is not to be shown.
func (t truth) whenGone(at time.Duration) string {
	last := time.Duration(-1)
	for _, s := range t.may {
		if s.to <= at {
			last = s.to
		}
	}
	if last < 0 {
		return "listed, and was never there before"
	}
	return fmt.Sprintf("listed, and was to be gone for %v", (at - last).Round(time.Millisecond))
}

// whenThere says since when a user is to be shown.
func (t truth) whenThere(at time.Duration) string {
	for _, s := range t.must {
		if s.from <= at && at <= s.to {
			return fmt.Sprintf("not listed, and was to be there for %v", (at - s.from).Round(time.Millisecond))
		}
	}
	return "not listed"
}

// reading is how a watcher's list is judged: at every moment through which it was kept,
// and where it changed.
type reading struct {
	*judge

	report  *Report
	watcher *Watcher
	window  *window
	all     truths
	late    spans
}

func (g *reading) run() {
	g.all, g.late = g.of(g.watcher.channel, ""), g.judge.late(g.watcher.edge)
	w := g.window
	end := min(w.proven, w.closed)
	members := map[userID]time.Duration{} // since when they are listed
	absent := map[userID]time.Duration{}  // since when they are not, having been
	for _, user := range w.first {
		members[user] = w.from
	}
	size := sizes{reading: g, from: w.from}
	size.compare(w.from, len(members), w.total)
	for _, step := range w.changes {
		for _, user := range step.joined {
			g.changed(Ghost, user, step.at)
			if _, listed := members[user]; !listed {
				g.unlisted(user, w.from, absent, step.at)
				members[user] = step.at
			}
			delete(absent, user)
		}
		for _, user := range step.left {
			g.changed(Blink, user, step.at)
			if from, listed := members[user]; listed {
				g.listed(user, from, step.at)
				delete(members, user)
				absent[user] = step.at
			}
		}
		size.compare(step.at, len(members), step.total)
	}
	size.end(end)
	for user, from := range members {
		g.listed(user, from, end)
	}
	for user := range g.all {
		if _, listed := members[user]; !listed {
			g.unlisted(user, w.from, absent, end)
		}
	}
}

func (g *reading) found(kind Kind, user userID, at time.Duration, format string, args ...any) {
	g.report.found(Example{Kind: kind, Who: g.watcher.name, Channel: g.watcher.channel, User: g.users[user], At: at, Detail: fmt.Sprintf(format, args...)})
}

// changed judges that somebody is said to have joined, or left.
func (g *reading) changed(kind Kind, user userID, at time.Duration) {
	t := g.all[user]
	told := g.late.before(at, g.bounds.Told+g.bounds.Watched)
	switch {
	case told < 0: // too early to know
	case kind == Ghost && len(t.may.meeting(span{told, at})) == 0:
		g.found(Ghost, user, at, "said to have joined; %s", t.whenGone(at))
	case kind == Blink && t.must.cover(span{told, at}):
		g.found(Blink, user, at, "said to have left; %s", t.whenThere(at))
	}
}

// listed judges that a watcher has had somebody in its list for some time.
func (g *reading) listed(user userID, from, to time.Duration) {
	if !g.window.known {
		return
	}
	for _, gone := range g.all[user].may.gaps().meeting(span{from, to}) {
		if at, wrong := g.wrong(gone, span{from, to}); wrong {
			g.found(Ghost, user, at, "in its list from %v to %v, and was to be gone from %v on", round(from), round(to), round(gone.from))
		}
	}
}

// unlisted judges that a watcher has not had somebody in its list since the window
// began, or since it was told that the user left.
func (g *reading) unlisted(user userID, from time.Duration, absent map[userID]time.Duration, to time.Duration) {
	if !g.window.known {
		return
	}
	if left, ok := absent[user]; ok { // that it left is judged by itself
		from = g.late.after(left, g.bounds.Watched)
	}
	for _, there := range g.all[user].must.meeting(span{from, to}) {
		if at, wrong := g.wrong(there, span{from, to}); wrong {
			g.found(Missing, user, at, "not in its list until %v, and was to be there from %v on", round(to), round(there.from))
		}
	}
}

// wrong tells whether, and when at first, a list says one thing for longer than it may
// while another is true.
func (g *reading) wrong(actual, said span) (time.Duration, bool) {
	from := max(g.late.after(actual.from, g.bounds.Watched), said.from)
	if actual.from == 0 {
		from = said.from
	}
	for _, s := range (span{from, min(actual.to, said.to)}).without(g.late) {
		return s.from, true
	}
	return 0, false
}

// sizes compares how long a list is with how long it is said to be.
type sizes struct {
	*reading

	from       time.Duration // since when they differ
	wrong      bool
	listed, of int
}

func (s *sizes) compare(at time.Duration, listed, of int) {
	if !s.window.known || (listed != of) == s.wrong {
		return
	}
	if s.wrong {
		s.end(at)
	}
	s.from, s.wrong, s.listed, s.of = at, listed != of, listed, of
}

func (s *sizes) end(at time.Duration) {
	if s.wrong && len(span{s.late.after(s.from, s.bounds.Watched), at}.without(s.late)) > 0 {
		s.report.found(Example{Kind: Miscounted, Who: s.watcher.name, Channel: s.watcher.channel, At: s.from, Detail: fmt.Sprintf("its list has %d members, of %d that there are said to be, until %v", s.listed, s.of, round(at))})
	}
}

func round(d time.Duration) time.Duration { return d.Round(time.Millisecond) }
