package credential_test

import (
	"bytes"
	"encoding/base64"
	"encoding/gob"
	"encoding/hex"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"log/slog"
	"reflect"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"

	"github.com/regkeeper/regkeeper/credential"
	"github.com/regkeeper/regkeeper/internal/secretref"
	"github.com/regkeeper/regkeeper/state"
)

const marker = "hunter2-SECRET-marker"

// holders are the exported types that hold a secret, or stand near one. A type
// that is added belongs here.
var holders = []any{
	credential.Secret{}, credential.Credential{}, credential.Login{}, credential.Request{}, credential.Proof{}, credential.Issued{},
	state.Credential{}, state.Retired{}, state.Registry{}, state.Document{}, state.Intent{}, state.Place{}, state.Trouble{},
	secretref.Ref{},
}

// Shapes in which a program might come to hold a secret.
type (
	exported   struct{ Held any }
	unexported struct{ held any }
	typed      struct {
		secret  credential.Secret
		login   credential.Login
		pointer *credential.Login
		list    []credential.Credential
		m       map[string]credential.Secret
		array   [1]credential.Login
	}
	embedded struct {
		credential.Login
	}
)

// plant puts the marker into every secret of a value, and a plain text into
// every other string, so that nothing prints as empty.
func plant(v reflect.Value) (planted bool) {
	if v.Type() == reflect.TypeFor[credential.Secret]() {
		v.Set(reflect.ValueOf(credential.NewSecret(marker)))
		return true
	}
	switch v.Kind() {
	case reflect.Struct:
		for i := range v.NumField() {
			if v.Type().Field(i).IsExported() {
				planted = plant(v.Field(i)) || planted
			}
		}
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		planted = plant(v.Elem())
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 1, 1))
		planted = plant(v.Index(0))
	case reflect.Map:
		key, value := reflect.New(v.Type().Key()).Elem(), reflect.New(v.Type().Elem()).Elem()
		plant(key)
		planted = plant(value)
		v.Set(reflect.MakeMap(v.Type()))
		v.SetMapIndex(key, value)
	case reflect.String:
		v.SetString("text")
	}
	return planted
}

func TestNothingPrintsASecret(t *testing.T) {
	planted := 0
	for _, holder := range holders {
		v := reflect.New(reflect.TypeOf(holder))
		if plant(v.Elem()) {
			planted++
		}
		value := v.Elem().Interface()
		name := v.Elem().Type().String()
		for shape, shaped := range map[string]any{
			name: value, "*" + name: v.Interface(), "[]" + name: []any{value}, "map of " + name: map[string]any{"k": value},
			name + " exported": exported{value}, name + " unexported": unexported{value}, name + " pointer unexported": &unexported{v.Interface()},
			name + " in an error": fmt.Errorf("about %v and %+v: %w", value, v.Interface(), errors.New("x")),
		} {
			checkSilent(t, shape, shaped)
		}
	}
	if planted != 7 {
		t.Errorf("%d types hold a secret, want 7: is the list of holders right?", planted)
	}
	secret := credential.NewSecret(marker)
	login := credential.Login{Username: "u", Secret: secret}
	deep := typed{secret, login, &login, []credential.Credential{{Secret: secret}}, map[string]credential.Secret{"k": secret}, [1]credential.Login{login}}
	checkSilent(t, "typed", deep)
	checkSilent(t, "*typed", &deep)
	checkSilent(t, "unexported typed", unexported{deep})
	checkSilent(t, "embedded", embedded{login})
	checkSilent(t, "*embedded", &embedded{login})
	checkSilent(t, "channel of it", map[credential.Login]int{login: 1})
}

// checkSilent prints a value in every way, and looks for the marker in every
// form.
func checkSilent(t *testing.T, shape string, value any) {
	t.Helper()
	outputs := map[string]string{}
	for _, verb := range []string{"v", "+v", "#v", "s", "q", "x", "X", "d", "T", "#x", "% x", "#q", "#s", "20s", "-20v", "o", "b", "c", "U", "e", "t", "p", "w"} {
		outputs["%"+verb] = fmt.Sprintf("%"+verb, value)
	}
	outputs["Sprint"], outputs["Sprintln"] = fmt.Sprint(value), fmt.Sprintln(value)
	for name, handler := range map[string]func(*bytes.Buffer) slog.Handler{
		"slog text": func(b *bytes.Buffer) slog.Handler {
			return slog.NewTextHandler(b, &slog.HandlerOptions{Level: slog.LevelDebug})
		},
		"slog JSON": func(b *bytes.Buffer) slog.Handler {
			return slog.NewJSONHandler(b, &slog.HandlerOptions{Level: slog.LevelDebug})
		},
	} {
		var out bytes.Buffer
		logger := slog.New(handler(&out)).With("with", value)
		logger.Info("m", "a", value, slog.Group("g", slog.Any("b", value)))
		outputs[name] = out.String()
	}
	if text, err := json.Marshal(value); err == nil {
		outputs["JSON"] = string(text)
	}
	if text, err := json.MarshalIndent(map[string]any{"k": value}, "", " "); err == nil {
		outputs["JSON in a map"] = string(text)
	}
	if text, err := yaml.Marshal(value); err == nil {
		outputs["YAML"] = string(text)
	}
	if text, err := xml.Marshal(value); err == nil {
		outputs["XML"] = string(text)
	}
	var gobbed bytes.Buffer
	if err := gob.NewEncoder(&gobbed).Encode(value); err == nil {
		outputs["gob"] = gobbed.String()
	}
	forms := []string{marker, "hunter2", hex.EncodeToString([]byte(marker)), fmt.Sprintf("% x", marker), fmt.Sprintf("%d", []byte(marker))}
	for cut := range 3 { // base64 of it behind other text
		forms = append(forms, base64.StdEncoding.EncodeToString([]byte(marker)[cut:])[:20])
	}
	for way, out := range outputs {
		for _, form := range forms {
			if strings.Contains(strings.ToLower(out), strings.ToLower(form)) {
				t.Errorf("%s of %s holds the secret: %s", way, shape, out)
			}
		}
	}
}
