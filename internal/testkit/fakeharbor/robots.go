package fakeharbor

import (
	"encoding/json"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Prefix is what the names of robot accounts begin with, unless a server is set
// up otherwise.
const Prefix = "robot$"

// projectID is the number of the one project.
const projectID = 7

// Access is one right of a robot account.
type Access struct {
	Resource string `json:"resource"`
	Action   string `json:"action"`
}

// Robot is a robot account.
type Robot struct {
	ID int64
	// Name is the one that was asked for; FullName is the username.
	Name, FullName, Secret string
	Access                 []Access
	Created                time.Time
	// Expires is zero if it never does.
	Expires time.Time
}

// robotName is what the server takes for a name.
var robotName = regexp.MustCompile(`^[a-z0-9]+(?:[._-][a-z0-9]+)*$`)

// AddRobot makes a robot account that may pull, as somebody else would.
func (s *Server) AddRobot(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.addRobot(name, -1, []Access{{"repository", "pull"}})
}

// Robots are copies of the robot accounts, in the order of their making.
func (s *Server) Robots() []Robot {
	s.mu.Lock()
	defer s.mu.Unlock()
	robots := make([]Robot, len(s.robots))
	for i, robot := range s.robots {
		robots[i] = *robot
	}
	return robots
}

func (s *Server) addRobot(name string, days int, access []Access) *Robot {
	s.serial++
	robot := &Robot{
		ID: s.serial, Name: name, FullName: Prefix + s.config.Project + "+" + name, Access: access,
		Secret: fmt.Sprintf("Fake0harbor%021d", s.serial), Created: s.config.Now(),
	}
	if days > 0 {
		robot.Expires = robot.Created.AddDate(0, 0, days)
	}
	s.robots = append(s.robots, robot)
	return robot
}

// robotOf finds the robot account of a login that has not expired.
func (s *Server) robotOf(username, password string) (Robot, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, robot := range s.robots {
		if robot.FullName == username && robot.Secret == password {
			return *robot, robot.Expires.IsZero() || robot.Expires.After(s.config.Now())
		}
	}
	return Robot{}, false
}

// allows says whether a robot account has the right that a request takes.
func (s *Server) allows(robot Robot, r *http.Request) bool {
	need := Access{"repository", "pull"}
	path, api := strings.CutPrefix(r.URL.Path, "/api/v2.0/")
	reads := r.Method == http.MethodGet || r.Method == http.MethodHead
	switch {
	case !api && r.URL.Path == "/v2/":
		return true
	case !api && !strings.HasPrefix(r.URL.Path, "/v2/"+s.config.Project+"/"):
		return false
	case !api && r.Method == http.MethodDelete:
		need.Action = "delete"
	case !api && !reads:
		need.Action = "push"
	case api && path == "repositories":
		need.Action = "list"
	case api && reads && strings.Contains(path, "/artifacts"):
		need = Access{"artifact", "list"}
	case api && strings.Contains(path, "/tags/"):
		need = Access{"tag", "delete"}
	case api && strings.Contains(path, "/artifacts/"):
		need = Access{"artifact", "delete"}
	case api:
		return false // robot accounts that manage others are not faked
	}
	return slices.Contains(robot.Access, need)
}

// minting serves the project and its robot accounts; it returns whether the
// request was for these.
func (s *Server) minting(w http.ResponseWriter, r *http.Request, parts []string) bool {
	switch {
	case len(parts) == 2 && parts[0] == "projects" && r.Method == http.MethodGet:
		named := r.Header.Get("X-Is-Resource-Name") == "true"
		if named && parts[1] != s.config.Project || !named && parts[1] != strconv.Itoa(projectID) {
			fail(w, http.StatusNotFound, "NOT_FOUND")
			return true
		}
		answer(w, http.StatusOK, map[string]any{"project_id": projectID, "name": s.config.Project})
	case len(parts) == 1 && parts[0] == "robots" && r.Method == http.MethodPost:
		s.mint(w, r)
	case len(parts) == 1 && parts[0] == "robots" && r.Method == http.MethodGet:
		s.listRobots(w, r)
	case len(parts) == 2 && parts[0] == "robots" && r.Method == http.MethodDelete:
		i := slices.IndexFunc(s.robots, func(robot *Robot) bool { return strconv.FormatInt(robot.ID, 10) == parts[1] })
		if i < 0 {
			fail(w, http.StatusNotFound, "NOT_FOUND")
			return true
		}
		s.robots = slices.Delete(s.robots, i, i+1)
		w.WriteHeader(http.StatusOK)
	default:
		return false
	}
	return true
}

// mint serves POST /robots ("RobotCreate").
func (s *Server) mint(w http.ResponseWriter, r *http.Request) {
	var body struct {
		Name        string `json:"name"`
		Level       string `json:"level"`
		Duration    int    `json:"duration"`
		Permissions []struct {
			Kind      string   `json:"kind"`
			Namespace string   `json:"namespace"`
			Access    []Access `json:"access"`
		} `json:"permissions"`
	}
	if json.NewDecoder(r.Body).Decode(&body) != nil || r.Header.Get("Content-Type") != "application/json" ||
		!robotName.MatchString(body.Name) || body.Duration == 0 || body.Duration < -1 ||
		body.Level != "project" || len(body.Permissions) != 1 || body.Permissions[0].Kind != "project" || len(body.Permissions[0].Access) == 0 {
		fail(w, http.StatusBadRequest, "BAD_REQUEST")
		return
	}
	if body.Permissions[0].Namespace != s.config.Project {
		fail(w, http.StatusNotFound, "NOT_FOUND")
		return
	}
	if slices.ContainsFunc(s.robots, func(robot *Robot) bool { return robot.Name == body.Name }) {
		fail(w, http.StatusConflict, "CONFLICT")
		return
	}
	robot := s.addRobot(body.Name, body.Duration, body.Permissions[0].Access)
	row := robot.row()
	row["secret"] = robot.Secret
	answer(w, http.StatusCreated, row)
}

func (r *Robot) row() map[string]any {
	expires := int64(-1)
	if !r.Expires.IsZero() {
		expires = r.Expires.Unix()
	}
	return map[string]any{"id": r.ID, "name": r.FullName, "creation_time": r.Created, "expires_at": expires}
}

// listRobots serves GET /robots: without a level and a project in the query
// these are the system's, of which there are none.
func (s *Server) listRobots(w http.ResponseWriter, r *http.Request) {
	query := map[string]string{}
	for _, part := range strings.Split(r.URL.Query().Get("q"), ",") {
		key, value, _ := strings.Cut(part, "=")
		query[key] = value
	}
	if query["Level"] == "project" && query["ProjectID"] == "" {
		fail(w, http.StatusBadRequest, "BAD_REQUEST")
		return
	}
	rows := []any{}
	for _, robot := range s.robots {
		stored := s.config.Project + "+" + robot.Name
		fuzzy, isFuzzy := strings.CutPrefix(query["Name"], "~")
		switch {
		case query["Level"] != "project" || query["ProjectID"] != strconv.Itoa(projectID):
		case isFuzzy && !strings.Contains(stored, fuzzy):
		case !isFuzzy && query["Name"] != "" && query["Name"] != stored:
		default:
			rows = append(rows, robot.row())
		}
	}
	page(w, r, rows, len(rows))
}
