package auth

import (
	"crypto"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/MicahParks/jwkset"
	"github.com/golang-jwt/jwt/v5"
)

// publishedKey is one key of a JSON Web Key Set.
type publishedKey struct {
	id        string // kid; may be empty
	algorithm string // alg; empty: any that fits the key
	key       crypto.PublicKey
}

func (k publishedKey) fits(method jwt.SigningMethod) bool {
	return (k.algorithm == "" || k.algorithm == method.Alg()) && fits(method, k.key)
}

func (k publishedKey) equal(other publishedKey) bool {
	key, ok := k.key.(interface {
		Equal(other crypto.PublicKey) bool
	})
	return ok && k.id == other.id && k.algorithm == other.algorithm && key.Equal(other.key)
}

// errNoKeys is the error of a set that nobody could verify with: an answer of something
// else, as a rule, and not a reason to forget the keys that are known.
var errNoKeys = errors.New("the answer has no key that could be used")

// parseKeySet reads a JSON Web Key Set (RFC 7517 section 5). A key that is of no use here
// is left out, as the RFC wants it; refused says why, where that is not the key's purpose.
// Addresses and certificates within a key are ignored.
func parseKeySet(text []byte) (keys []publishedKey, refused []string, err error) {
	var set struct {
		Keys []json.RawMessage `json:"keys"`
	}
	if json.Unmarshal(text, &set) != nil {
		return nil, nil, errors.New("the answer is not a JSON Web Key Set")
	}
	for i, raw := range set.Keys {
		key, err := parseKey(raw)
		switch {
		case errors.Is(err, errOtherPurpose):
		case err != nil:
			refused = append(refused, fmt.Sprintf("keys[%d] %s", i, err))
		default:
			keys = append(keys, key)
		}
	}
	if len(keys) == 0 {
		return nil, nil, errNoKeys
	}
	return keys, refused, nil
}

var errOtherPurpose = errors.New("is not for signatures")

// parseKey reads one JSON Web Key. It must be public, and as good as one in PEM.
func parseKey(raw json.RawMessage) (publishedKey, error) {
	var jwk jwkset.JWKMarshal
	if json.Unmarshal(raw, &jwk) != nil {
		return publishedKey{}, errors.New("is not a JSON Web Key")
	}
	if jwk.USE != "" && jwk.USE != jwkset.UseSig || len(jwk.KEYOPS) > 0 && !slices.Contains(jwk.KEYOPS, jwkset.KeyOpsVerify) {
		return publishedKey{}, errOtherPurpose
	}
	if jwk.KTY == jwkset.KtyOct || jwk.K != "" {
		return publishedKey{}, errors.New("is a secret, which nobody may publish")
	}
	if jwk.D != "" || jwk.P != "" || jwk.Q != "" || jwk.DP != "" || jwk.DQ != "" || jwk.QI != "" || len(jwk.OTH) > 0 {
		return publishedKey{}, errors.New("is a private key, which nobody may publish")
	}
	jwk.X5U, jwk.X5C, jwk.X5T, jwk.X5TS256 = "", nil, "", ""
	decoded, err := jwkset.NewJWKFromMarshal(jwk, jwkset.JWKMarshalOptions{}, jwkset.JWKValidateOptions{})
	if err != nil {
		return publishedKey{}, errors.New("cannot be read, or is of an unknown type")
	}
	if err := checkPublicKey(decoded.Key()); err != nil {
		return publishedKey{}, err
	}
	key := publishedKey{id: jwk.KID, algorithm: string(jwk.ALG), key: decoded.Key()}
	if key.algorithm == "Ed25519" { // the name that RFC 9864 gives to the EdDSA of this curve
		key.algorithm = jwt.SigningMethodEdDSA.Alg()
	}
	return key, nil
}
