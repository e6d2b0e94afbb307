package frame

import (
	"reflect"
	"testing"
)

// publishes are frames, and whether they are read in one pass.
var publishes = map[string]bool{
	`{"id":1,"publish":{"channel":"chat.a","data":{"a":[1, 2]}}}`:                              true,
	` { "publish" : { "data" : "x" , "messageId" : "m" , "channel" : "chat.a" } , "id" : 7 } `: true,
	`{"id":1,"publish":{"channel":"chat.a","data":null}}`:                                      true,
	`{"id":1,"publish":{}}`:                                                                 true,
	`{"id":1,"publish":{"channel":"ä","channel":"b"}}`:                                      false,
	`{"id":1,"publish":{"channel":"","channel":"b"}}`:                                       true,
	`{"id":1,"publish":{"channel":"chat.\u0061","data":1}}`:                                 false,
	`{"id":1,"publish":{"Channel":"chat.a","data":1}}`:                                      false,
	`{"id":1,"publish":{"channel":"chat.a","data":1,"data":2}}`:                             false,
	`{"id":1,"publish":{"channel":null,"data":1}}`:                                          false,
	`{"id":1,"publish":{"channel":1,"data":1}}`:                                             false,
	`{"id":1,"publish":{"channel":"chat.a","dataBase64":"AAA=","contentType":"image/png"}}`: false,
	`{"id":1,"publish":{"channel":"chat.a","data":1},"other":2}`:                            false,
	`{"id":1,"id":2,"publish":{"channel":"chat.a","data":1}}`:                               false,
	`{"id":1,"publish":{"channel":"chat.a","data":1},"publish":{}}`:                         false,
	`{"id":0,"publish":{"channel":"chat.a","data":1}}`:                                      false,
	`{"id":"1","publish":{"channel":"chat.a","data":1}}`:                                    false,
	`{"id":1.0,"publish":{"channel":"chat.a","data":1}}`:                                    false,
	`{"id":9007199254740992,"publish":{"channel":"chat.a","data":1}}`:                       false,
	`{"publish":{"channel":"chat.a","data":1}}`:                                             false,
	`{"id":1,"ping":{}}`:                                                false,
	`{"id":1,"publish":null}`:                                           false,
	`{"id":1,"publish":{"channel":"chat.a","data":1}} x`:                false,
	`{"id":1,"publish":{"channel":"chat.a","data":1,}}`:                 false,
	"{\"id\":1,\"publish\":{\"channel\":\"chat.a\",\"data\":\"\xff\"}}": false,
	`{"\u0069d":1,"publish":{"channel":"chat.a","data":1}}`:             false,
	`{"id":1,"publish":{"channel":"chat.a","data":` + nested(64) + `}}`: true,
	`{"id":1,"publish":{"channel":"chat.a","data":` + nested(65) + `}}`: false,
}

func nested(levels int) string {
	text := ""
	for range levels {
		text = "[" + text + "]"
	}
	return text
}

func TestPublishIsReadInOnePass(t *testing.T) {
	t.Parallel()
	for text, want := range publishes {
		if _, ok := decodePublish([]byte(text)); ok != want {
			t.Errorf("%s: %t", text, ok)
		}
		samePublish(t, []byte(text))
	}
}

// FuzzPublish: what is read in one pass is what would be read in several.
func FuzzPublish(f *testing.F) {
	for text := range publishes {
		f.Add([]byte(text))
	}
	f.Fuzz(samePublish)
}

func samePublish(t *testing.T, text []byte) {
	t.Helper()
	got, ok := decodePublish(text)
	if !ok {
		return
	}
	if want, err := decode(text); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%q: %+v, want %+v, %v", text, got, want, err)
	}
}
