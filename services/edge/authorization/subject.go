package authorization

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"strconv"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"

	authzv1 "github.com/carillon-rt/carillon/gen/carillon/authz/v1"
	"github.com/carillon-rt/carillon/services/internal/auth"
)

// digest tells subjects apart.
type digest [sha256.Size]byte

// Subject is about whom is asked: a user with the claims of a token. There is one for
// each connection, so it keeps the claims as bytes, a few hundred as a rule, and
// nothing of the identity that it was made from. It is immutable.
type Subject struct {
	user string
	// claims are as appendStruct writes them; nil if they cannot be told, and then nothing
	// can be asked.
	claims []byte
	digest digest
}

// NewSubject makes the subject of an identity, whose claims are JSON values as
// encoding/json decodes them. Of claims that hold anything else no question can be
// asked: Check fails.
func NewSubject(identity auth.Identity) *Subject {
	s := &Subject{user: identity.Subject}
	text := make([]byte, 0, 512)
	text = strconv.AppendQuote(text, s.user) // ends where the claims begin
	all, ok := appendStruct(text, identity.Claims)
	if !ok {
		return s
	}
	s.claims = append(make([]byte, 0, len(all)-len(text)), all[len(text):]...)
	s.digest = sha256.Sum256(all)
	return s
}

// request builds what is asked about the subject.
func (s *Subject) request(checks []Check) (*authzv1.CheckPermissionsRequest, error) {
	if s.claims == nil {
		return nil, errors.New("the claims are not JSON values")
	}
	claims := &structpb.Struct{}
	if err := proto.Unmarshal(s.claims, claims); err != nil {
		return nil, fmt.Errorf("reading back the claims: %w", err)
	}
	req := &authzv1.CheckPermissionsRequest{
		UserId: s.user,
		Claims: claims,
		Checks: make([]*authzv1.PermissionCheck, len(checks)),
	}
	for i, check := range checks {
		req.Checks[i] = &authzv1.PermissionCheck{Action: actionTo(check.Action), Channel: string(check.Channel), MessageType: check.MessageType}
	}
	return req, nil
}
