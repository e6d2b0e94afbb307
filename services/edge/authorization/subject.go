package authorization

import (
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"

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
	// claims is JSON with sorted keys, so that equal claims are equal bytes; nil if
	// the claims cannot be told, and then nothing can be asked.
	claims []byte
	digest digest
}

// NewSubject makes the subject of an identity, whose claims are JSON values as
// encoding/json decodes them. Of claims that hold anything else no question can be
// asked: Check fails.
func NewSubject(identity auth.Identity) *Subject {
	s := &Subject{user: identity.Subject}
	claims, err := json.Marshal(identity.Claims)
	if err != nil {
		return s
	}
	s.claims = claims
	text := make([]byte, 0, 512)
	text = strconv.AppendQuote(text, s.user) // ends where the claims begin
	s.digest = sha256.Sum256(append(text, claims...))
	return s
}

// request builds what is asked about the subject.
func (s *Subject) request(checks []Check) (*authzv1.CheckPermissionsRequest, error) {
	if s.claims == nil {
		return nil, errors.New("the claims are not JSON values")
	}
	var values map[string]any
	if err := json.Unmarshal(s.claims, &values); err != nil {
		return nil, fmt.Errorf("reading back the claims: %w", err)
	}
	claims, err := structpb.NewStruct(values)
	if err != nil {
		return nil, fmt.Errorf("packing the claims: %w", err)
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
