"""The page at `/`: files that a browser runs. `jetface.api.page` serves them; they know only the HTTP API.

`index.html` names its assets by a path that holds their digest, `static/{assets}/`, so that browsers keep them for good
and still get new ones with a new version. Nothing comes from another host: the page works without an internet
connection.
"""
