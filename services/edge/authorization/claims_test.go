package authorization

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/carillon-rt/carillon/services/internal/auth"
)

// Whatever JSON object claims are, what is asked about holds the same, and equal claims
// are equal bytes.
func FuzzClaims(f *testing.F) {
	for _, seed := range []string{
		`{}`, `{"":null}`, `{"sub":"ann","exp":1795341797,"ok":true,"no":false,"x":-0.5e-7}`,
		`{"rooms":["a","b",1,null,{}],"deep":{"a":{"b":[[[{"c":"d"}]]]}}}`,
		`{"long":"` + strings.Repeat("é", 100) + `","longer":{"in":["` + strings.Repeat("x", 20_000) + `"]}}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		var claims, again map[string]any
		if json.Unmarshal(text, &claims) != nil || json.Unmarshal(text, &again) != nil {
			return
		}
		s := NewSubject(auth.Identity{Subject: "ann", Claims: claims})
		req, err := s.request(nil)
		if err != nil {
			t.Fatalf("%s: %v", text, err)
		}
		want, err := structpb.NewStruct(claims)
		if err != nil {
			t.Fatal(err)
		}
		if !proto.Equal(req.GetClaims(), want) || !reflect.DeepEqual(req.GetClaims().AsMap(), want.AsMap()) {
			t.Errorf("%s: %v is asked about, want %v", text, req.GetClaims(), want)
		}
		if other := NewSubject(auth.Identity{Subject: "ann", Claims: again}); other.digest != s.digest {
			t.Errorf("%s: equal claims have other digests", text)
		}
	})
}
