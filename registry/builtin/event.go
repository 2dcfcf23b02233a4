package builtin

import (
	"encoding/json"
	"net/http"
	"time"
)

// EventsType is the media type of an [Envelope].
const EventsType = "application/vnd.docker.distribution.events.v2+json"

// The actions of an [Event].
const (
	ActionPush   = "push"
	ActionDelete = "delete"
)

// Envelope is how events are sent by HTTP: distribution's
// docs/about/notifications.md.
type Envelope struct {
	Events []Event `json:"events"`
}

// Event is a manifest that was pushed or deleted: distribution's
// notifications/event.go. A push of a manifest under several tags is several
// events. Copies of other registries' images cause none.
type Event struct {
	ID        string       `json:"id"`
	Timestamp time.Time    `json:"timestamp"`
	Action    string       `json:"action"`
	Target    EventTarget  `json:"target"`
	Request   EventRequest `json:"request"`
	Actor     EventActor   `json:"actor"`
}

// EventTarget is what an event is about. A deleted tag has no digest, and a
// deleted manifest no tag: every tag of it is gone.
type EventTarget struct {
	MediaType  string `json:"mediaType,omitempty"`
	Digest     string `json:"digest,omitempty"`
	Size       int64  `json:"size,omitempty"` // in bytes
	Length     int64  `json:"length,omitempty"`
	Repository string `json:"repository"`
	Tag        string `json:"tag,omitempty"`
}

// EventRequest is the request that caused an event.
type EventRequest struct {
	Addr      string `json:"addr,omitempty"`
	Host      string `json:"host,omitempty"`
	Method    string `json:"method"`
	UserAgent string `json:"useragent,omitempty"`
}

// EventActor is who caused an event: the user of the token.
type EventActor struct {
	Name string `json:"name,omitempty"`
}

// tell reports an event, where somebody listens.
func (g *Registry) tell(r *http.Request, by caller, action string, target EventTarget) {
	if g.config.Events == nil || g.upstreamOf(target.Repository) != nil {
		return
	}
	g.config.Events(Event{
		ID:        randomHex(16),
		Timestamp: g.config.Now().UTC(),
		Action:    action,
		Target:    target,
		Request:   EventRequest{Addr: r.RemoteAddr, Host: r.Host, Method: r.Method, UserAgent: r.UserAgent()},
		Actor:     EventActor{Name: by.token.User},
	})
}

func (g *Registry) tellPush(r *http.Request, by caller, to route, digest string, tags []string, body []byte) {
	size := int64(len(body))
	target := EventTarget{MediaType: mediaTypeOf(r, body), Digest: digest, Size: size, Length: size, Repository: to.repository}
	for _, tag := range tags {
		target.Tag = tag
		g.tell(r, by, ActionPush, target)
	}
	if len(tags) == 0 {
		g.tell(r, by, ActionPush, target)
	}
}

func (g *Registry) tellDelete(r *http.Request, by caller, to route) {
	target := EventTarget{Repository: to.repository}
	if tagForm.MatchString(to.reference) {
		target.Tag = to.reference
	} else {
		target.Digest = to.reference
	}
	g.tell(r, by, ActionDelete, target)
}

// mediaTypeOf is what the manifest says that it is, or else the client.
func mediaTypeOf(r *http.Request, body []byte) string {
	var doc struct {
		MediaType string `json:"mediaType"`
	}
	if json.Unmarshal(body, &doc) == nil && doc.MediaType != "" {
		return doc.MediaType
	}
	return r.Header.Get("Content-Type")
}
