package attendance

import (
	"slices"
	"time"
)

// truth is when a user must be shown in a channel, and when it may be: at all other times
// it must not.
type truth struct{ must, may spans }

// truths are those of one channel, as far as one replica is to know, or with the
// replica "" anybody.
type truths map[userID]truth

// judge has the records as the rules look at them; it remembers what it has worked out.
type judge struct {
	*Checker

	known     map[place]truths
	untils    map[stayAt]time.Duration
	disturbed map[string]spans // by edge: times in which who watches there may be late
}

// place is a channel at a replica.
type place struct{ channel, replica string }

// stayAt is a subscription as a replica is to see it.
type stayAt struct {
	*stay

	replica string
}

func newJudge(c *Checker) *judge {
	return &judge{Checker: c, known: map[place]truths{}, untils: map[stayAt]time.Duration{}, disturbed: map[string]spans{}}
}

// of returns what is true of a channel.
func (j *judge) of(channel, replica string) truths {
	at := place{channel, replica}
	if all, ok := j.known[at]; ok {
		return all
	}
	all := truths{}
	if r := j.rooms[channel]; r != nil {
		for user, stays := range r.stays {
			if replica == "" {
				all[user] = j.anywhere(user, channel)
			} else {
				all[user] = truth{j.must(stays, replica), j.may(stays, replica)}
			}
		}
	}
	j.known[at] = all
	return all
}

// anywhere is what is true of a user whatever replica is asked.
func (j *judge) anywhere(user userID, channel string) truth {
	var t truth
	for i, replica := range j.replicas {
		at := j.of(channel, replica)[user]
		if t.may = union(append(t.may, at.may...)); i == 0 {
			t.must = at.must
		} else {
			t.must = t.must.and(at.must)
		}
	}
	return t
}

// between returns the faults between an edge and a replica, or of either, that do one of
// some harms: for how long they last, and longer, so much.
func (j *judge) between(edge, replica string, longer time.Duration, harms ...Harm) spans {
	var some []span
	for _, f := range j.faults {
		if (f.Edge == edge && (f.Replica == "" || f.Replica == replica) || f.Edge == "" && f.Replica == replica) && slices.Contains(harms, f.Harm) {
			some = append(some, f.longer(longer))
		}
	}
	return union(some)
}

// ofReplica returns the faults of a replica alone.
func (j *judge) ofReplica(replica string, longer time.Duration) spans {
	return j.between("nobody", replica, longer, Killed, Stopped, Paused)
}

func (s span) longer(by time.Duration) span {
	if s.to != never {
		s.to += by
	}
	return s
}

// must is when a user has to be in the lists of a replica: from Told after each
// subscription that is known to be there, to when it was last known to be, or to when the
// grace ends; but for as long as the edge has other troubles. A replica's own troubles
// excuse nothing, since it answers only when it knows; but it forgets whom an edge that is
// gone has asked it to hold.
func (j *judge) must(stays []*stay, replica string) spans {
	var all []span
	for _, s := range stays {
		if s.since == never {
			continue
		}
		troubles := j.edgeTroubles(s.edge, replica)
		parts := span{s.since, s.proven}.without(troubles)
		if s.since == s.proven && len(troubles.meeting(span{s.since, s.since})) == 0 {
			parts = spans{{s.since, s.since}}
		}
		if n := len(parts); n > 0 && parts[n-1].to == s.proven {
			parts[n-1].to = j.heldUntil(s, stays, replica)
		}
		for _, part := range parts {
			all = append(all, span{part.from + j.bounds.Told, part.to})
		}
	}
	return union(all)
}

// edgeTroubles are the times at which a replica need not know of what an edge has.
func (j *judge) edgeTroubles(edge, replica string) spans {
	var some []span
	for _, f := range j.faults {
		if f.Edge == edge && (f.Replica == "" || f.Replica == replica) && slices.Contains([]Harm{Killed, Paused, Cut, HalfCut}, f.Harm) {
			some = append(some, f.longer(j.bounds.Healed))
		}
	}
	return union(some)
}

// heldUntil is how long at least a replica shows a user whose subscription was lost.
func (j *judge) heldUntil(s *stay, stays []*stay, replica string) time.Duration {
	if s.ended == never || !s.how.Held {
		return s.proven
	}
	until := s.proven + j.bounds.Grace - j.bounds.Spare
	for _, other := range stays { // who joins there after it is not held for its sake any more
		if other != s && other.edge == s.edge && (other.since == never || other.since >= s.proven) {
			until = min(until, max(other.asked, s.proven))
		}
	}
	for _, trouble := range append(j.edgeTroubles(s.edge, replica), j.ofReplica(replica, j.bounds.Healed)...) {
		if trouble.to >= s.proven {
			until = min(until, max(trouble.from, s.proven))
		}
	}
	return max(until, s.proven)
}

// may is when a user may be in the lists of a replica: from when it asked to be
// subscribed to when the edge has to have noticed that it is not any more, and has told;
// but for as long as the replica cannot have heard of the edge.
func (j *judge) may(stays []*stay, replica string) spans {
	var all []span
	for _, s := range stays {
		var away []span
		for _, f := range j.faults {
			if f.Edge == s.edge && (f.Replica == "" || f.Replica == replica) && (f.Harm == Paused || f.Harm == Cut) {
				away = append(away, span{j.forgotten(f.from, replica), f.to})
			}
		}
		all = append(all, span{s.asked, j.until(s, replica)}.without(union(away))...)
	}
	return union(all)
}

// until is how long at most a replica may show a user for the sake of a subscription.
func (j *judge) until(s *stay, replica string) time.Duration {
	at := stayAt{s, replica}
	until, ok := j.untils[at]
	if !ok {
		until = j.killed(s, replica, j.noticed(s, replica))
		j.untils[at] = until
	}
	return until
}

// noticed is when an edge has to have noticed that a subscription has ended, and told.
func (j *judge) noticed(s *stay, replica string) time.Duration {
	if s.ended == never {
		return never
	}
	notice := j.toNotice(s.how)
	until := j.between(s.edge, replica, 0, Paused, Cut, HalfCut, Slowed, Clientless).after(s.ended, notice+j.bounds.Told)
	if len(j.between(s.edge, replica, 0, Stopped).meeting(span{s.ended, until})) > 0 { // it expects everybody back
		until += j.bounds.Grace + j.bounds.Drain
	}
	return until
}

// killed is how long a replica shows a user whose edge was killed before it had noticed.
func (j *judge) killed(s *stay, replica string, noticed time.Duration) time.Duration {
	for _, f := range j.faults {
		if f.Edge == s.edge && f.Harm == Killed && s.asked < f.from && f.from < noticed {
			return j.forgotten(f.from, replica)
		}
	}
	return noticed
}

// forgotten is when a replica has noticed that it does not hear an edge any more. A
// replica that stood still itself gives everybody as much time again.
func (j *judge) forgotten(silent time.Duration, replica string) time.Duration {
	gone := silent + j.bounds.Silence
	for _, stood := range j.ofReplica(replica, 0) {
		if stood.to > silent && stood.from < gone {
			gone = stood.longer(j.bounds.Silence).to
		}
	}
	return gone
}

// toNotice is how long an edge may have a user after its connection has ended.
func (j *judge) toNotice(how Ending) time.Duration {
	notice := time.Duration(0)
	if !how.Known {
		notice = j.bounds.Noticed
	}
	if how.Held {
		notice += j.bounds.Grace + how.After
	}
	return notice
}

// late are the times in which who is told by an edge, or with "" by replicas, may be
// behind: while the edge does not reach them, and until it has found another.
func (j *judge) late(edge string) spans {
	if all, ok := j.disturbed[edge]; ok {
		return all
	}
	var some []span
	for _, f := range j.faults {
		switch {
		case f.Edge == "" && f.Replica != "": // it may be the one that tells
			some = append(some, span{f.from, f.from + j.bounds.Failover})
			if f.to != never {
				some = append(some, span{f.to, f.to + j.bounds.Failover})
			}
		case f.Edge == edge && edge != "" && f.Harm != Clientless && f.Harm != Stopped:
			some = append(some, f.longer(j.bounds.Failover))
		}
	}
	all := union(some)
	j.disturbed[edge] = all
	return all
}
