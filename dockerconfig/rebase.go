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
func Rebase(base, theirs, ours *Document) *Document {
	result := ours.Clone()
	result.carry(base.object(), theirs.object(), &result.root, 0)
	return result
}

// carryDepth is how many levels of objects below the outer one are merged
// member by member: "auths" is one, its entries are whole.
const carryDepth = 1

func (d *Document) carry(base, theirs *hujson.Object, onto *hujson.Value, depth int) {
	object := onto.Value.(*hujson.Object)
	for _, was := range base.Members {
		if find(theirs, text(was.Name)) == nil {
			remove(object, text(was.Name))
		}
	}
	for i := range theirs.Members {
		is := &theirs.Members[i]
		name := text(is.Name)
		was := find(base, name)
		if was != nil && bytes.Equal(compact(was.Value), compact(is.Value)) {
			continue
		}
		have := find(object, name)
		switch {
		case have == nil:
			d.insert(onto, depth, name, is.Value.Clone())
		case depth < carryDepth && isObject(is.Value) && isObject(have.Value):
			from := &hujson.Object{}
			if was != nil && isObject(was.Value) {
				from = was.Value.Value.(*hujson.Object)
			}
			d.carry(from, is.Value.Value.(*hujson.Object), &have.Value, depth+1)
		default:
			have.Value.Value = is.Value.Clone().Value
		}
	}
}

func find(object *hujson.Object, name string) *hujson.ObjectMember {
	if found := members(object, name); len(found) > 0 {
		return found[len(found)-1]
	}
	return nil
}

func isObject(v hujson.Value) bool {
	_, ok := v.Value.(*hujson.Object)
	return ok
}

func compact(v hujson.Value) []byte {
	copied := v.Clone()
	copied.Minimize()
	return copied.Pack()
}
