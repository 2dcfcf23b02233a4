package image

// chunk is how many of a list lie together.
const chunk = 1 << 10

// list is a slice that is not copied when it grows: of very many, the copies that
// are thrown away would take more room than what they are of.
type list[T any] struct {
	chunks [][]T
	length uint32
}

// add puts one at the end, and returns its number from 0.
func (l *list[T]) add(one T) uint32 {
	if l.length%chunk == 0 {
		size := chunk
		if l.length == 0 {
			size = 0 // most lists are short
		}
		l.chunks = append(l.chunks, make([]T, 0, size))
	}
	last := &l.chunks[len(l.chunks)-1]
	*last = append(*last, one)
	l.length++
	return l.length - 1
}

func (l *list[T]) at(n uint32) *T { return &l.chunks[n/chunk][n%chunk] }
