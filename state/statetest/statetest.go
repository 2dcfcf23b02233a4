// Package statetest has the conformance suite of [state.Store]: what a store
// promises wherever it keeps the document.
package statetest

import (
	"fmt"
	"reflect"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/regkeeper/regkeeper/credential"
	"github.com/regkeeper/regkeeper/state"
)

// Marker begins every secret of [Full].
const Marker = "hunter2-SECRET"

// Full has every field of every type set, found by reflection, so that a field
// added later cannot be forgotten by a store.
func Full() *state.Document {
	doc := &state.Document{}
	n := 0
	fill(reflect.ValueOf(doc).Elem(), &n)
	return doc
}

func fill(v reflect.Value, n *int) {
	*n++
	switch v.Interface().(type) {
	case credential.Secret:
		v.Set(reflect.ValueOf(credential.NewSecret(fmt.Sprint(Marker, *n))))
		return
	case time.Time:
		v.Set(reflect.ValueOf(time.Date(2026, 1, 2, 3, 4, 5, *n, time.FixedZone("", 3600))))
		return
	}
	switch v.Kind() {
	case reflect.Struct:
		for i := range v.NumField() {
			fill(v.Field(i), n)
		}
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fill(v.Elem(), n)
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 2, 2))
		fill(v.Index(0), n)
		fill(v.Index(1), n)
	case reflect.Map:
		v.Set(reflect.MakeMap(v.Type()))
		for range 2 {
			key, value := reflect.New(v.Type().Key()).Elem(), reflect.New(v.Type().Elem()).Elem()
			fill(key, n)
			fill(value, n)
			v.SetMapIndex(key, value)
		}
	case reflect.String:
		v.SetString(fmt.Sprint("text-", *n))
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Int, reflect.Int64:
		v.SetInt(int64(*n))
	default:
		panic("state has a field of kind " + v.Kind().String())
	}
}

// Run tries a store. open opens one document, which does not exist before the
// first call; the store that it returned before is not used any more then.
func Run(t *testing.T, open func(t *testing.T) state.Store) {
	t.Helper()
	store := open(t)
	load := func(want *state.Document) *state.Document {
		t.Helper()
		got, err := store.Load(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if got.Registries == nil || got.Places == nil {
			t.Errorf("a map is missing in %+v", got)
		}
		if diff := cmp.Diff(want, got, cmpopts.EquateEmpty()); diff != "" {
			t.Fatalf("loaded (-want +got):\n%s", diff)
		}
		return got
	}
	save := func(doc *state.Document) {
		t.Helper()
		if err := store.Save(t.Context(), doc); err != nil {
			t.Fatal(err)
		}
	}
	// None was saved.
	load(state.New())
	load(state.New())
	// What is saved is loaded, secrets included, as often as one likes.
	save(Full())
	load(Full())
	// What is loaded is the caller's.
	changed := load(Full())
	for _, registry := range changed.Registries {
		registry.Current.Secret, registry.Retired = credential.NewSecret("other"), nil
	}
	load(Full())
	save(changed)
	load(changed)
	// Whoever opens the document later has it, and may write it without more.
	store = open(t)
	load(changed)
	for i := range 3 {
		doc := state.New()
		doc.Registry("h").Current = &state.Credential{Credential: credential.Credential{ID: fmt.Sprint(i), Secret: credential.NewSecret(Marker)}}
		save(doc)
		load(doc)
	}
	save(state.New())
	load(state.New())
}
