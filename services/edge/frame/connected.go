package frame

import "strconv"

// append writes the reply to connect, in JSON, without encoding/json: each connection has
// its own, and thousands want theirs at once.
func (e Connected) append(dst []byte) []byte {
	dst = append(dst, `{"connectionId":`...)
	dst = appendString(dst, e.ConnectionID)
	dst = append(dst, `,"userId":`...)
	dst = appendString(dst, e.UserID)
	if !e.ExpiresAt.IsZero() {
		dst = append(dst, `,"expiresAt":`...)
		dst = strconv.AppendInt(dst, e.ExpiresAt.UnixMilli(), 10)
	}
	dst = append(dst, `,"serverTime":`...)
	dst = strconv.AppendInt(dst, e.ServerTime.UnixMilli(), 10)
	dst = append(dst, `,"heartbeatMs":`...)
	dst = strconv.AppendInt(dst, milliseconds(e.Heartbeat), 10)
	dst = append(dst, `,"maxFrameBytes":`...)
	dst = strconv.AppendInt(dst, int64(e.MaxFrameBytes), 10)
	dst = append(dst, `,"subscriptions":[`...)
	for i, s := range e.Subscriptions {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = s.append(dst)
	}
	return append(dst, "]}"...)
}

func (s SubscriptionResult) append(dst []byte) []byte {
	dst = append(dst, `{"channel":`...)
	dst = appendString(dst, s.Subscribed.Channel)
	switch at := s.Subscribed.Position; {
	case s.Error != nil:
		dst = append(dst, `,"error":`...)
		dst = append(dst, marshal(errorShape(s.Error))...)
	case at.Epoch != "":
		dst = append(dst, `,"epoch":`...)
		dst = appendString(dst, string(at.Epoch))
		dst = append(dst, `,"offset":`...)
		dst = strconv.AppendUint(dst, uint64(at.Offset), 10)
		dst = append(dst, `,"recovered":`...)
		dst = strconv.AppendBool(dst, s.Subscribed.Recovered)
	}
	return append(dst, '}')
}
