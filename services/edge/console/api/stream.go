package api

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"time"

	"github.com/carillon-rt/carillon/services/internal/fault"
)

const (
	// streamInterval is how often a stream looks for what is new.
	streamInterval = 250 * time.Millisecond
	// channelsInterval is how often it has the busiest channels.
	channelsInterval = 2 * time.Second
	// streamWriteTimeout is how long a reader may not read before it is cut off.
	streamWriteTimeout = 5 * time.Second
	// streamedEvents bounds those that come at once, but for the first.
	streamedEvents = 100
)

// streaming is one that is open.
type streaming struct {
	api     *API
	request *request
	writer  http.ResponseWriter
	control *http.ResponseController

	number   uint64 // of the last sample that was sent
	event    uint64 // id of the last
	lost     uint64 // events, as was told
	channels time.Time
}

// stream serves server-sent events (WHATWG HTML, 9.2) until the one who asks has gone, or
// may not look any more, or the edge stops.
func (a *API) stream(w http.ResponseWriter, r *request) {
	after, err := r.after()
	if err != nil {
		refuse(w, 0, fault.From(err))
		return
	}
	if !enter(a.visitors.streams) {
		a.turnAway(w, r.Request, tooOften("%d look already", maxStreams))
		return
	}
	a.metrics.streams.Add(r.Context(), 1)
	defer func() {
		a.metrics.streams.Add(context.WithoutCancel(r.Context()), -1)
		<-a.visitors.streams
	}()
	s := &streaming{api: a, request: r, writer: w, control: http.NewResponseController(w), event: after}
	_ = s.control.SetReadDeadline(time.Time{}) // the server's is for requests that end; tests' writers have none
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("X-Accel-Buffering", "no") // or nginx would hold events back
	w.WriteHeader(http.StatusOK)
	s.run()
}

func (s *streaming) run() {
	if !s.begin() {
		return
	}
	ticker := time.NewTicker(streamInterval)
	defer ticker.Stop()
	for {
		select {
		case <-s.request.Context().Done():
			return
		case <-s.api.closing:
			s.end(fault.Unavailable(fault.Draining, nil, "this edge is stopping"))
			return
		case now := <-ticker.C:
			if err := s.api.mayLook(s.request.caller); err != nil {
				s.end(err)
				return
			}
			if !s.goOn(now) {
				return
			}
		}
	}
}

// begin sends what there is already, and tells whether that went well.
func (s *streaming) begin() bool {
	all, number := s.api.samples.all()
	s.number, s.channels = number, time.Now()
	list := s.api.events.after(s.event, maxListed, anyEvent)
	s.saw(list)
	return s.send(frame{"overview", all}, frame{"events", list}, frame{"channels", s.api.busiest(defaultBusiest)})
}

// goOn sends what is new.
func (s *streaming) goOn(now time.Time) bool {
	var messages []frame
	if last, number, ok := s.api.samples.after(s.number); ok {
		s.number = number
		messages = append(messages, frame{"sample", last})
	}
	list := s.api.events.after(s.event, streamedEvents, anyEvent)
	if len(list.Events) > 0 || list.Lost != s.lost {
		s.saw(list)
		messages = append(messages, frame{"events", list})
	}
	if now.Sub(s.channels) >= channelsInterval {
		s.channels = now
		messages = append(messages, frame{"channels", s.api.busiest(defaultBusiest)})
	}
	return s.send(messages...)
}

func (s *streaming) saw(list eventList) {
	s.lost = list.Lost
	if n := len(list.Events); n > 0 {
		s.event = list.Events[n-1].ID
	}
}

func (s *streaming) end(err error) { s.send(frame{"end", told(err)}) }

// frame is an event of the stream.
type frame struct {
	name string
	data any
}

// send writes messages at once; false if the one who asks does not read.
func (s *streaming) send(messages ...frame) bool {
	if len(messages) == 0 {
		return true
	}
	var b bytes.Buffer
	encoder := json.NewEncoder(&b)
	encoder.SetEscapeHTML(false)
	for _, m := range messages {
		b.WriteString("event: " + m.name + "\ndata: ")
		if err := encoder.Encode(m.data); err != nil { // one line, as JSON is without indentation
			s.api.options.Logger.Warn("the console failed", "event", m.name, "error", err)
			return false
		}
		b.WriteByte('\n')
	}
	_ = s.control.SetWriteDeadline(time.Now().Add(streamWriteTimeout))
	if _, err := s.writer.Write(b.Bytes()); err != nil {
		return false
	}
	return s.control.Flush() == nil
}
