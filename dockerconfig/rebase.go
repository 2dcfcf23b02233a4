package dockerconfig

import (
	"bytes"

	"github.com/tailscale/hujson"
)

// Rebase carries onto ours what another writer changed between base and
// theirs: the members it added, changed or took away, in the outer object and
// in the objects directly below it.
//
//	base   theirs   result has
//	-      x        x
//	x      -        none
//	x      y        y
//	x      x        what ours has
//
// An object of the outer one that theirs took away, or made null, loses its
// members by the same table: the ones that ours alone has stay.
func Rebase(base, theirs, ours *Document) *Document {
	result := ours.Clone()
	result.carry(base.object(), theirs.object(), []*hujson.Value{&result.root}, 0)
	return result
}

// carryDepth is how many levels of objects below the outer one are merged
// member by member: "auths" is one, its entries are whole.
const carryDepth = 1

// carry works on all the objects that stand under one doubled name, since the
// clients merge them. What is added goes into the last.
func (d *Document) carry(base, theirs *hujson.Object, onto []*hujson.Value, depth int) {
	last := onto[len(onto)-1]
	for _, name := range names(base) {
		if _, ok := effective(theirs, name, depth); ok {
			continue
		}
		was, _ := effective(base, name, depth)
		if have := values(onto, name); depth < carryDepth && isObjectOrNull(was) && areObjects(have) {
			d.carry(objectOf(was), &hujson.Object{}, have, depth+1)
			if !areEmpty(have) {
				continue
			}
		}
		removeAll(onto, name)
	}
	for _, name := range names(theirs) {
		was, had := effective(base, name, depth)
		is, _ := effective(theirs, name, depth)
		if had && bytes.Equal(compact(was), compact(is)) {
			continue
		}
		have := values(onto, name)
		switch {
		case depth < carryDepth && areNull(have) && isObject(was) && isObject(is):
			// Ours took the object away: only what theirs changed in it is put back.
			removeAll(onto, name)
			d.insert(last, depth, name, hujson.Value{Value: &hujson.Object{}})
			have = values(onto, name)
			if d.carry(objectOf(was), objectOf(is), have, depth+1); areEmpty(have) {
				removeAll(onto, name)
			}
		case depth < carryDepth && isObjectOrNull(is) && areObjects(have):
			d.carry(objectOf(was), objectOf(is), have, depth+1)
		case len(have) == 1:
			have[0].Value = is.Clone().Value
		default:
			removeAll(onto, name)
			d.insert(last, depth, name, is.Clone())
		}
	}
}

// names lists the names of the members, each once.
func names(object *hujson.Object) []string {
	var list []string
	seen := map[string]bool{}
	for i := range object.Members {
		if name := text(object.Members[i].Name); !seen[name] {
			seen[name] = true
			list = append(list, name)
		}
	}
	return list
}

// effective is what a name stands for: the last value, or all of them in one
// where objects are merged.
func effective(object *hujson.Object, name string, depth int) (v hujson.Value, ok bool) {
	found := members(object, name)
	if len(found) == 0 {
		return hujson.Value{}, false
	}
	v = found[len(found)-1].Value
	if len(found) == 1 || depth >= carryDepth || !isObject(v) {
		return v, true
	}
	merged := &hujson.Object{}
	for _, member := range found {
		merged.Members = append(merged.Members, objectOf(member.Value).Members...)
	}
	return hujson.Value{Value: merged}, true
}

// values lists what the objects have under a name.
func values(objects []*hujson.Value, name string) (list []*hujson.Value) {
	for _, v := range objects {
		for _, member := range members(v.Value.(*hujson.Object), name) {
			list = append(list, &member.Value)
		}
	}
	return list
}

func removeAll(objects []*hujson.Value, name string) {
	for _, v := range objects {
		remove(v.Value.(*hujson.Object), name)
	}
}

func isObject(v hujson.Value) bool {
	_, ok := v.Value.(*hujson.Object)
	return ok
}

// isObjectOrNull counts null, which is an empty object to the clients.
func isObjectOrNull(v hujson.Value) bool { return isObject(v) || v.Value.Kind() == 'n' }

// objectOf is the value's object, or an empty one.
func objectOf(v hujson.Value) *hujson.Object {
	if object, ok := v.Value.(*hujson.Object); ok {
		return object
	}
	return &hujson.Object{}
}

func areObjects(list []*hujson.Value) bool {
	for _, v := range list {
		if !isObject(*v) {
			return false
		}
	}
	return len(list) > 0
}

func areNull(list []*hujson.Value) bool {
	for _, v := range list {
		if v.Value.Kind() != 'n' {
			return false
		}
	}
	return true
}

func areEmpty(list []*hujson.Value) bool {
	for _, v := range list {
		if len(objectOf(*v).Members) > 0 {
			return false
		}
	}
	return true
}

func compact(v hujson.Value) []byte {
	copied := v.Clone()
	copied.Minimize()
	return copied.Pack()
}
